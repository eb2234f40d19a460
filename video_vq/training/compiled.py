"""What torch.compile must leave alone."""

from contextlib import AbstractContextManager, nullcontext

import torch


def uncompiled(is_compiled: bool) -> AbstractContextManager[None]:
    """Return a context in which compiled modules run as written.

    For validations: averaged weights and other batch sizes would be compiled anew, for a few clips.
    """
    return torch.compiler.set_stance("force_eager") if is_compiled else nullcontext()
