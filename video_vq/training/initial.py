"""The initial weights of a training run."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from video_vq.config import to_json
from video_vq.models.pretrained import check_tensors
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stores.files import difference
from video_vq.training.checkpoint import CheckpointFolder
from video_vq.training.training_config import TokenizerTrainingConfig


def starting_tokenizer(
    config: TokenizerTrainingConfig, out: Path, say: Callable[[str], None]
) -> VideoTokenizer:
    """Return a tokenizer with weights drawn by `run.seed`, or with those of `init_from`.

    Later draws from torch's generator, such as a discriminator's weights, depend only on the seed.

    Raises:
        InputError: see `initial_tensors`.
    """
    initial = initial_tensors(config, out, say)
    torch.manual_seed(config.run.seed)
    tokenizer = VideoTokenizer(config.model, config.run.checkpoint_activations)
    if initial is not None:
        tokenizer.load_state_dict(initial)
    return tokenizer


def initial_tensors(
    config: TokenizerTrainingConfig, out: Path, say: Callable[[str], None]
) -> dict[str, Tensor] | None:
    """Return the tensors of `init_from`; None if it is not set, or if the run resumes.

    Settings that keep the tensors' shapes, such as the gradient estimator, may differ; the
    differences are printed.

    Raises:
        InputError: there is no such tokenizer, or its tensors do not fit the config's model.
    """
    if config.init_from is None or CheckpointFolder(out / "state").steps():
        return None
    source = VideoTokenizer.from_pretrained(config.init_from)
    with torch.device("meta"):
        expected = VideoTokenizer(config.model).state_dict()
    found = source.float().state_dict()
    check_tensors(expected, found, f"init_from: {config.init_from}")
    changes = difference(to_json(source.config), to_json(config.model))
    say("\n  ".join([f"starting from {config.init_from}, hash {source.hash}", *changes]))
    return found
