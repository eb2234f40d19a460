"""Loads a prior and its tokenizer, and refuses models and tokens that do not match."""

from pathlib import Path

from accelerate import Accelerator

from video_vq.errors import InputError
from video_vq.models.priors import AnyPrior, load_prior
from video_vq.models.tokenizer import VideoTokenizer


def load_pair(
    accelerator: Accelerator, prior_path: Path, tokenizer_path: Path
) -> tuple[AnyPrior, VideoTokenizer]:
    """Load a prior and its tokenizer.

    Raises:
        InputError: a model is missing or damaged, or the models do not match.
    """
    prior = load_prior(prior_path, device=accelerator.device)
    tokenizer = VideoTokenizer.from_pretrained(tokenizer_path, device=accelerator.device)
    require_same_tokenizer(tokenizer, prior.facts.tokenizer_hash, str(prior_path))
    require_same_grid(prior, tokenizer, prior_path)
    return prior, tokenizer


def require_same_grid(prior: AnyPrior, tokenizer: VideoTokenizer, prior_path: Path) -> None:
    """Reject a prior whose grid size or vocabulary differs from the tokenizer's.

    Raises:
        InputError: the grid sizes or vocabularies differ; the message states both.
    """
    if prior.config.vocabulary != tokenizer.config.quantizer.vocabulary:
        raise InputError(
            f"{prior_path}: models codes of {prior.config.vocabulary} values per position, the "
            f"tokenizer's have {tokenizer.config.quantizer.vocabulary}; train a prior on tokens of "
            f"`video-vq encode` with this tokenizer"
        )
    if prior.config.grid_thw != tokenizer.facts.grid_thw:
        raise InputError(
            f"{prior_path}: models tokens of t h w = {prior.config.grid_thw}, the tokenizer makes "
            f"{tokenizer.facts.grid_thw} of its clips; train a prior on tokens of "
            f"`video-vq encode` with this tokenizer"
        )


def require_same_tokenizer(tokenizer: VideoTokenizer, tokenizer_hash: str, what: str) -> None:
    """Reject tokens or a prior made with a different tokenizer.

    Raises:
        InputError: the hashes differ.
    """
    if tokenizer.hash != tokenizer_hash:
        raise InputError(
            f"{what}: belongs to the tokenizer {tokenizer_hash[:12]}…, "
            f"this one is {tokenizer.hash[:12]}…; name the tokenizer it was made with, or make it "
            "again with `video-vq encode` and `video-vq train-prior`"
        )
