"""Builds, loads and calls priors of either kind, and makes their samplers."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from video_vq.config import check_config
from video_vq.errors import InputError
from video_vq.models.hub import find_model_folder
from video_vq.models.masked_prior import MaskedPrior, hidden_tokens
from video_vq.models.masked_sampling import MaskedSampler
from video_vq.models.model_folder import CONFIG, read_model_config
from video_vq.models.prior import Prior
from video_vq.models.prior_config import ParallelSettings, PriorConfig, SamplingSettings
from video_vq.models.sampling import TokenSampler

AnyPrior = Prior | MaskedPrior
AnySampler = TokenSampler | MaskedSampler


def build_prior(config: PriorConfig, checkpoint_activations: bool = False) -> AnyPrior:
    """Return a prior of the kind that its config names."""
    kind = Prior if config.transformer.kind == "autoregressive" else MaskedPrior
    return kind(config, checkpoint_activations)


def load_prior(
    name: str | Path, revision: str | None = None, device: str | torch.device = "cpu"
) -> AnyPrior:
    """Load a prior of either kind; see `Pretrained.from_pretrained`.

    Raises:
        InputError: as for `Pretrained.from_pretrained`.
    """
    folder = find_model_folder(name, revision, "prior")
    found = read_model_config(folder, "prior")
    config = check_config(PriorConfig, found.model, str(found.folder / CONFIG))
    kind = Prior if config.transformer.kind == "autoregressive" else MaskedPrior
    return kind.from_pretrained(found.folder, device=device)


def make_sampler(
    prior: AnyPrior,
    settings: SamplingSettings,
    parallel: ParallelSettings | None,
    batch_size: int,
    dtype: torch.dtype,
) -> AnySampler:
    """Return a sampler for a prior.

    Args:
        parallel: how several tokens are drawn at once; None for the defaults of a masked prior.

    Raises:
        InputError: the prior is autoregressive, and cannot draw several tokens at once.
    """
    if isinstance(prior, MaskedPrior):
        return MaskedSampler(prior, settings, parallel, batch_size, dtype)
    if parallel is not None:
        raise InputError(
            "--steps and --confidence-temperature are for masked priors, but this one "
            "draws one token after the other; leave them out, or train a prior with "
            "model.kind=masked"
        )
    return TokenSampler(prior, settings, batch_size, dtype)


def rate_name(prior: AnyPrior) -> str:
    """Return the name of a prior's cross entropy, which is not a code length for a masked prior."""
    return "bits_per_hidden_token" if isinstance(prior, MaskedPrior) else "bits_per_token"


def prior_inputs(
    batch: Sequence[Tensor | None], hidden: Bool[Tensor, "b n"] | None
) -> tuple[Tensor | None, ...]:
    """Return the arguments for calling a prior.

    Args:
        batch: tokens, classes and actions.
        hidden: mask of the tokens that a masked prior is to predict; None for other priors.
    """
    return tuple(batch) if hidden is None else (*batch, None, hidden)


def hidden_in_scoring(prior: AnyPrior, rows: Sequence[int]) -> Bool[Tensor, "b n"] | None:
    """Return a mask of the tokens in a store's rows that are predicted in scoring.

    The mask depends only on the row; it is None for a prior that is not masked.
    """
    if not isinstance(prior, MaskedPrior):
        return None
    keys = [(row,) for row in rows]
    return hidden_tokens(keys, prior.config.num_tokens).to(prior.head.weight.device)
