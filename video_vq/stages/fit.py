"""Refuses clips, tokens, tokenizers and priors that do not belong together, before computing."""

from pathlib import Path

from video_vq.errors import InputError
from video_vq.metrics.perceptual import TRUNKS, StLpips
from video_vq.models.prior import Prior
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stores.clips import ClipStore
from video_vq.stores.tokens import TokenStore


def require_same_tokenizer(tokenizer: VideoTokenizer, tokenizer_hash: str, what: str) -> None:
    """Refuse tokens, or a prior, of another tokenizer.

    Raises:
        InputError: the hashes differ.
    """
    if tokenizer.hash != tokenizer_hash:
        raise InputError(
            f"{what}: belongs to the tokenizer {tokenizer_hash[:12]}…, "
            f"this one is {tokenizer.hash[:12]}…; name the tokenizer it was made with, or make it "
            "again with `video-vq encode` and `video-vq train-prior`"
        )


def require_large_enough(store: ClipStore, st_lpips: StLpips) -> None:
    """Refuse clips whose frames are too small for ST-LPIPS.

    Raises:
        InputError: says from which size on it scores.
    """
    least = TRUNKS[st_lpips.trunk].min_size
    height, width = store.frame_size_hw
    if min(height, width) < least:
        raise InputError(
            f"{store.path}: ST-LPIPS on {st_lpips.trunk} takes frames of at least {least} x "
            f"{least} pixels, found {height} x {width}; leave --st-lpips out"
        )


def require_fit(
    store: ClipStore, samples: Path | None, tokens: TokenStore | None, prior: Prior | None
) -> None:
    """Refuse samples, tokens and a prior of other data before anything is computed.

    Raises:
        InputError: names what does not belong together.
    """
    if samples is not None and ClipStore(samples).frame_size_hw != store.frame_size_hw:
        raise InputError(
            f"{samples}: frames of {ClipStore(samples).frame_size_hw}, the data's are "
            f"{store.frame_size_hw}; score samples of a model trained on this data"
        )
    if tokens is not None and tokens.header.data_hash != store.content_hash:
        raise InputError(
            f"{tokens.path}: was not encoded from {store.path}; "
            f"run `video-vq encode {store.path} --tokenizer … --out …` first"
        )
    if prior is not None and tokens is not None:
        ours = (prior.facts.classes, prior.config.grid_thw, prior.config.num_action_dims)
        header = tokens.header
        theirs = (header.classes, header.grid_thw, header.num_action_dims)
        if ours != theirs:
            raise InputError(
                f"the prior was trained on classes, grid and numbers of actions {ours}, "
                f"{tokens.path} has {theirs}; train a prior on these tokens"
            )
