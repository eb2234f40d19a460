"""Functions that build, load, call and sample from priors of either kind."""

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
    """Return a new prior of the kind given in the config."""
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
        parallel: settings of a masked prior for drawing several tokens at once; None for defaults.

    Raises:
        InputError: `parallel` is given for an autoregressive prior, which draws one token at a
            time, or has more steps than a clip has tokens.
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
    """Return the metric name of a prior's cross entropy, which differs for masked priors."""
    return "bits_per_hidden_token" if isinstance(prior, MaskedPrior) else "bits_per_token"


def prior_inputs(
    batch: Sequence[Tensor | None], hidden: Bool[Tensor, "b n"] | None
) -> tuple[Tensor | None, ...]:
    """Return the arguments for calling a prior.

    Args:
        batch: tokens, class labels and actions.
        hidden: mask of the tokens that a masked prior must predict; None for other priors.
    """
    return tuple(batch) if hidden is None else (*batch, None, hidden)


def hidden_in_scoring(prior: AnyPrior, rows: Sequence[int]) -> Bool[Tensor, "b n"] | None:
    """Return the mask of tokens to predict when scoring the given rows of a token store.

    Each mask depends only on the row number. The function returns None for a prior that is not
    masked.
    """
    if not isinstance(prior, MaskedPrior):
        return None
    keys = [(row,) for row in rows]
    return hidden_tokens(keys, prior.config.num_tokens).to(prior.head.weight.device)
