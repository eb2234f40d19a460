"""Seeds and conditions for sampling, and a check that both fit the prior."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from video_vq.errors import InputError
from video_vq.models.prior_config import NO_CLASS, SamplingSettings
from video_vq.models.token_transformer import TokenTransformer
from video_vq.nn.inputs import as_integers, as_tensor, plain_integers

Integers = Sequence[int] | Integer[Tensor, " n"] | Integer[np.ndarray, " n"]

MAX_SEED = (1 << 63) - 1


class Conditions(NamedTuple):
    """The conditions of a batch of clips, before embedding."""

    class_labels: Int[Tensor, " n"] | None
    given: Int[Tensor, "n p *level"] | None
    actions: Float[Tensor, "n t a"] | None

    @property
    def num_given(self) -> int:
        """Return the number of given tokens per clip."""
        return 0 if self.given is None else self.given.shape[1]

    def rows(self, index: Int[Tensor, " r"], device: torch.device) -> "Conditions":
        """Return the conditions of the clips with the given indices, on the given device."""
        return Conditions(*(None if all_ is None else all_[index].to(device) for all_ in self))


def as_seeds(seeds: object) -> list[int]:
    """Return seeds from a list, a tensor or an array as a list of integers.

    Raises:
        InputError: the seeds are not a list, a tensor or an array, or are not integers.
    """
    listed = plain_integers(seeds, "seeds")
    return as_integers(seeds, "seeds").flatten().tolist() if listed is None else listed


def as_conditions(class_labels: object, given: object, actions: object) -> Conditions:
    """Return conditions as tensors with the expected dtype and number of axes.

    Raises:
        InputError: class labels or given tokens are not integers, actions are not an array of
            numbers, or a condition has the wrong number of axes.
    """
    labels = None if class_labels is None else as_integers(class_labels, "class labels")
    tokens = None if given is None else as_integers(given, "given tokens")
    numbers = None if actions is None else as_tensor(actions, "actions").float()
    for name, values, axes in (
        ("class labels", labels, "n"),
        ("given tokens", tokens, "n p"),
        ("actions", numbers, "n t a"),
    ):
        several = int(name == "given tokens")  # several codes per position need one more axis
        if values is not None and not 0 <= values.ndim - len(axes.split()) <= several:
            raise InputError(
                f"{name}: expected the axes {axes}, found the shape {tuple(values.shape)}"
                + ("; for a grid of codes, pass grid.flatten(1)" if name == "given tokens" else "")
            )
    labels, tokens = (None if one is None else one.long() for one in (labels, tokens))
    return Conditions(labels, tokens, numbers)


def check_sampling(
    prior: TokenTransformer,
    seeds: Sequence[int],
    conditions: Conditions,
    settings: SamplingSettings,
    batch_size: int,
) -> None:
    """Check that the seeds, conditions, settings and batch size are valid for the prior.

    Raises:
        InputError: a seed, condition, setting or the batch size is invalid.
    """
    config = prior.config
    if not seeds:
        raise InputError("no seeds were given; give one per sample")
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: expected at least 1")
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise InputError(f"seed {seed}: expected 0 to {MAX_SEED}")
    largest = max(prior.sub_codes.sizes)
    if settings.top_k is not None and settings.top_k > largest:
        codes = "codes" if len(prior.sub_codes) == 1 else "values for each sub-code"
        raise InputError(
            f"top_k {settings.top_k} for a codebook of {largest} {codes}; "
            "leave top_k out to draw among all of them"
        )
    steered = bool(config.num_classes or config.num_action_dims)
    if settings.guidance != 1 and not (steered and config.transformer.condition_dropout > 0):
        reason = "without condition dropout" if steered else "without any condition"
        raise InputError(
            f"guidance {settings.guidance:g}: this prior was trained {reason}, so it has no "
            "difference to amplify; use guidance 1"
        )
    for name, values in conditions._asdict().items():
        if values is not None and values.shape[0] != len(seeds):
            raise InputError(f"{name}: {values.shape[0]} rows for {len(seeds)} seeds")
    _check_values(prior, conditions)


def _check_values(prior: TokenTransformer, conditions: Conditions) -> None:
    config = prior.config
    labels, given, actions = conditions
    if labels is not None and config.num_classes:
        wrong = labels[(labels < NO_CLASS) | (labels >= config.num_classes)]
        if len(wrong):
            raise InputError(
                f"class {int(wrong[0])}: this prior has {config.num_classes} classes, "
                f"0 to {config.num_classes - 1} ({NO_CLASS} for none)"
            )
    if given is not None:
        if not 1 <= given.shape[1] < config.num_tokens:
            raise InputError(
                f"{given.shape[1]} given tokens: this prior has {config.num_tokens} positions "
                f"(t h w = {config.grid_thw}), so 1 to {config.num_tokens - 1} can be given"
            )
        _check_given(given, config.vocabulary)
    if actions is not None and not bool(actions.isfinite().all()):
        raise InputError("actions: a number is not finite; prepare the data again")


def _check_given(given: Int[Tensor, "n p *level"], vocabulary: Sequence[int]) -> None:
    expected = () if len(vocabulary) == 1 else (len(vocabulary),)
    if tuple(given.shape[2:]) != expected:
        raise InputError(
            f"given tokens: this prior has codes of {len(vocabulary)} levels per position, found "
            f"the shape {tuple(given.shape)}; for a grid of codes, pass grid.flatten(1, 3)"
        )
    for level, size in enumerate(vocabulary):
        codes = given if len(vocabulary) == 1 else given[..., level]
        if bool(((codes < 0) | (codes >= size)).any()):
            where = "" if len(vocabulary) == 1 else f" of level {level}"
            raise InputError(
                f"given tokens{where} lie in {int(codes.min())} to {int(codes.max())}, the "
                f"prior's in 0 to {size - 1}; do they belong to another tokenizer?"
            )
