"""Initial weights of a training run."""

from collections.abc import Callable
from pathlib import Path

import torch

from video_vq.config import to_json
from video_vq.models.pretrained import check_tensors
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stores.files import difference
from video_vq.training.checkpoint import CheckpointFolder
from video_vq.training.training_config import TokenizerTrainingConfig


def starting_tokenizer(
    config: TokenizerTrainingConfig, out: Path, say: Callable[[str], None]
) -> VideoTokenizer:
    """Return a tokenizer with random weights from `run.seed`, or with the weights of `init_from`.

    In both cases, later draws from torch's generator, such as a discriminator's weights, depend
    only on the seed. `init_from` is not read if the run resumes from a checkpoint. Settings that
    keep the shapes of the tensors, such as the gradient estimator, may differ between `init_from`
    and the config; the differences are printed.

    Raises:
        InputError: there is no tokenizer at `init_from`, or its tensors do not fit the config's
            model.
    """
    found = None
    if config.init_from is not None and not CheckpointFolder(out / "state").steps():
        source = VideoTokenizer.from_pretrained(config.init_from)
        with torch.device("meta"):
            expected = VideoTokenizer(config.model).state_dict()
        found = source.float().state_dict()
        check_tensors(expected, found, f"init_from: {config.init_from}")
        changes = difference(to_json(source.config), to_json(config.model))
        say("\n  ".join([f"starting from {config.init_from}, hash {source.hash}", *changes]))
    torch.manual_seed(config.run.seed)
    tokenizer = VideoTokenizer(config.model, config.run.checkpoint_activations)
    if found is not None:
        tokenizer.load_state_dict(found)
    return tokenizer
