"""Videos to discrete tokens and back, a prior over the tokens, and FVD for both."""

__version__ = "0.1.0"
