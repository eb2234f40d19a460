"""Prior training on a token store, in one function that reads from top to bottom."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import functional_call

from video_vq.data.loader import TokenSequence, blank_tokens, read_grids
from video_vq.data.order import rank_positions
from video_vq.distributed import make_accelerator, over_ranks
from video_vq.models.masked_prior import MaskedPrior, hidden_tokens
from video_vq.models.prior import clip_nats, prior_loss, token_nats
from video_vq.models.prior_config import PriorFacts, config_for
from video_vq.models.priors import AnyPrior, build_prior, hidden_in_scoring, prior_inputs, rate_name
from video_vq.stores.tokens import TokenStore
from video_vq.training.compiled import compile_parts
from video_vq.training.distributed import StopFlag, require_even_batch
from video_vq.training.loop import Training, open_run
from video_vq.training.stop_request import StopRequest
from video_vq.training.trackers import TrackerName
from video_vq.training.training_config import PriorTrainingConfig
from video_vq.training.validation import validation_batches


def train_prior(
    config: PriorTrainingConfig,
    tokens: Path,
    out: Path,
    trackers: Sequence[TrackerName] = (),
    allowed_changes: Sequence[str] = (),
    request: StopRequest | None = None,
) -> Path | None:
    """Train a prior on a token store; repeat the same call to resume.

    Args:
        config: settings of the whole training run; see configs/prior/.
        tokens: path of a token store, whose train split is used for training and whose val split
            for validation.
        out: path of the run folder.
        trackers: experiment trackers to log to, besides metrics.jsonl.
        allowed_changes: settings that a resumed run may change; see `RunFolder`.
        request: stop request whose context has been entered, so that signals stop the run; with
            None, only a file named `stop` in the run folder stops the run.

    Returns:
        The folder of the finished prior, or None if the run was stopped.

    Raises:
        InputError: the store, the model settings, the run folder, a tracker or the number of
            processes is unsuitable; the loss or gradient was not finite in too many consecutive
            steps; or the finished prior cannot be written.
    """
    accelerator = make_accelerator()
    store, optim = TokenStore(tokens), config.optim
    require_even_batch(accelerator, optim.batch_size, optim.accumulation)
    dataset = TokenSequence(store, "train", config.run.seed)
    validation = validation_rows(store, config)
    model_config = config_for(store.header, config.model)
    run_folder = open_run(accelerator, out, "prior", config, store.content_hash, allowed_changes)
    if (finished := run_folder.finished_model(optim.steps)) is not None:
        accelerator.print(f"already finished: {finished}")
        return finished

    torch.manual_seed(config.run.seed)
    prior = build_prior(model_config, config.run.checkpoint_activations)
    if store.header.num_action_dims:
        prior.set_action_statistics(*action_statistics(store))
    training = Training(accelerator, run_folder, config, prior, "grids", trackers, request)
    if config.run.compile:
        blank = blank_tokens(store.header, training.micro_batch_size, accelerator.device)
        inputs = prior_inputs(blank, hidden_in_training(training, prior, 0))
        compile_parts(
            *(accelerator, training.model, [prior]), lambda: training.model(*inputs).square().mean()
        )
    timer, batches = training.timer, training.batches(dataset)

    # Between two turns `training` saves, stops, sets the learning rate and calls `.train()`.
    for turn in training.turns():
        if turn == "validate":
            validate(training, prior, store, validation)
            continue

        # Gradients add up over this rank's micro-batches of the global batch.
        nats = torch.zeros((), device=accelerator.device)
        for number in range(optim.accumulation):
            with timer("data"):
                batch = next(batches).flat(accelerator.device)
                hidden = hidden_in_training(training, prior, number)
            with training.summing(is_last=number == optim.accumulation - 1):
                with timer("forward"):
                    logits = training.model(*prior_inputs(batch, hidden))
                    loss = prior_loss(logits, batch.tokens, prior.sub_codes, hidden).nats
                with timer("backward"):
                    training.backward(loss)  # divided by accumulation
            nats += loss.detach() / optim.accumulation

        if training.update(nats):
            training.state.averages.update(prior)

        if training.log_is_due:
            with timer("logging"):
                bits = float(over_ranks(accelerator, nats, "mean")) / math.log(2)
                health = training.state.health
                warnings = health.look(bits)
            figures = {f"loss/{rate_name(prior)}": bits, "warnings/loss_spikes": health.loss_spikes}
            training.log(figures, warnings)

    return training.export(facts_of(config, store)) if training.is_finished else None


def hidden_in_training(
    training: Training, prior: AnyPrior, micro_batch: int
) -> Bool[Tensor, "b n"] | None:
    """Return a mask of the tokens that a masked prior has to predict; None for other priors.

    The mask depends only on the run's seed and on the clip's position in the run, so the mask is
    the same for any number of ranks and micro-batches.
    """
    if not isinstance(prior, MaskedPrior):
        return None
    positions = rank_positions(
        training.state.step,
        micro_batch,
        training.accelerator.process_index,
        batch_size=training.optim.batch_size,
        accumulation=training.optim.accumulation,
        world_size=training.accelerator.num_processes,
    )
    keys = [(training.rhythm.seed, position) for position in positions]
    return hidden_tokens(keys, prior.config.num_tokens).to(training.accelerator.device)


def facts_of(config: PriorTrainingConfig, store: TokenStore) -> PriorFacts:
    """Return the training details that the finished prior records."""
    header = store.header
    return PriorFacts(
        tokenizer_hash=header.tokenizer_hash,
        classes=header.classes,
        num_frames=header.num_frames,
        frame_size_hw=header.frame_size_hw,
        fps=header.fps,
        trained_on=store.content_hash,
        steps=config.optim.steps,
    )


def action_statistics(store: TokenStore) -> tuple[Float[Tensor, " a"], Float[Tensor, " a"]]:
    """Return the mean and standard deviation of the train split's actions, summed in float64.

    The first latent frame has positions without an action (`data/actions.py`) and is skipped unless
    it is the only latent frame. A constant action gets a standard deviation of 1.
    """
    first = min(1, store.header.grid_thw[0] - 1)
    size = store.header.num_action_dims
    shift, sums, squares, count = np.zeros(size), np.zeros(size), np.zeros(size), 0
    for row in store.rows("train"):
        actions = store.read_actions(int(row))
        assert actions is not None
        values = actions[first:].astype(np.float64)
        if not count:
            shift = values[0]  # close to the mean, so that squares around it lose no digits
        sums += (values - shift).sum(0)
        squares += np.square(values - shift).sum(0)
        count += len(values)
    variance = np.maximum(squares / count - np.square(sums / count), 0)
    mean = (shift + sums / count).astype(np.float32)
    std = np.sqrt(variance).astype(np.float32)
    std[std <= 1e-6 * np.maximum(np.abs(mean), 1e-30)] = 1
    return torch.from_numpy(mean), torch.from_numpy(std)


def validation_rows(store: TokenStore, config: PriorTrainingConfig) -> list[int]:
    """Return the row indices of the val split's grids that each validation pass scores.

    The grids stay the same throughout a run.
    """
    shuffled = np.random.default_rng([config.run.seed, 0x7A1]).permutation(store.rows("val"))
    return [int(row) for row in shuffled[: config.run.validation_clips]]


def validate(training: Training, prior: AnyPrior, store: TokenStore, rows: list[int]) -> None:
    """Score the averaged weights, and log the result.

    All ranks must call this function. If a stop is requested in the meantime, nothing is logged;
    the next start validates again.
    """
    averages = training.state.averages.tensors
    batch_size = training.micro_batch_size  # batches of this size fit into memory during training
    bits = score(training.accelerator, prior, averages, store, rows, batch_size, training.stop)
    if bits is not None:
        training.note_validation({f"validation/{rate_name(prior)}": bits}, bits)


@torch.no_grad()
def score(
    accelerator: Accelerator,
    prior: AnyPrior,
    weights: dict[str, Tensor],
    store: TokenStore,
    rows: Sequence[int],
    batch_size: int,
    stop: StopFlag,
) -> float | None:
    """Return the bits per token of given weights on fixed grids, split among the ranks.

    All ranks must call this function. For a masked prior, the result is in bits per hidden token.

    Args:
        prior: prior, not wrapped by DDP; its own weights are not used.
        weights: weights to score, by tensor name.
        rows: row indices of the grids in the store, for all ranks together.
        batch_size: number of grids per batch on one rank.

    Returns:
        The bits per token, or None if a stop was requested in the meantime.
    """
    prior.eval()
    total = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for mine in validation_batches(accelerator, rows, "grid", batch_size, stop):
        if mine is None:
            return None
        batch = read_grids(store, mine).flat(accelerator.device)
        with accelerator.autocast():
            hidden = hidden_in_scoring(prior, mine)
            logits = functional_call(prior, weights, prior_inputs(batch, hidden))
        nats = token_nats(logits, batch.tokens, prior.sub_codes)
        if hidden is not None:
            nats = clip_nats(nats, hidden)
        total[0] += nats.double().sum()
        total[1] += nats.numel()
    total = over_ranks(accelerator, total, "sum")
    return float(total[0] / total[1]) / math.log(2)
