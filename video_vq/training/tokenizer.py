"""Tokenizer training, in one function that reads from top to bottom."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import UInt8
from torch import Tensor
from torch.func import functional_call

from video_vq.data.loader import ClipBatch, ClipSequence, read_windows
from video_vq.data.windows import Window, scoring_windows
from video_vq.distributed import make_accelerator, over_ranks
from video_vq.media.encode import tile
from video_vq.metrics.code_usage import CodeUsage
from video_vq.models.tokenizer import VideoTokenizer, to_pixels, to_uint8
from video_vq.models.tokenizer_config import TokenizerFacts
from video_vq.quantizers.codebook import merge
from video_vq.quantizers.rows import CodebookStatistics, dot
from video_vq.stores.clips import ClipStore
from video_vq.training.compiled import compile_parts
from video_vq.training.distributed import StopFlag, require_even_batch
from video_vq.training.health import REMEDIES, least_used
from video_vq.training.initial import starting_tokenizer
from video_vq.training.loop import Training, open_run
from video_vq.training.losses import TokenizerLosses
from video_vq.training.mechanism import WatchedBatch, watch, watched_step
from video_vq.training.second_pass import SecondPass
from video_vq.training.stop_request import StopRequest
from video_vq.training.trackers import TrackerName
from video_vq.training.training_config import TokenizerTrainingConfig
from video_vq.training.validation import validation_batches

CODEBOOK = "quantizer.codebook."  # prefix of the codebook's tensors in a tokenizer
SHOWN_CLIPS = 4


class Validation(NamedTuple):
    """Scores of the averaged weights on the fixed validation clips."""

    psnr: float
    code_usage: float
    perplexity: float


def train_tokenizer(
    config: TokenizerTrainingConfig,
    data: Path,
    out: Path,
    trackers: Sequence[TrackerName] = (),
    allowed_changes: Sequence[str] = (),
    request: StopRequest | None = None,
) -> Path | None:
    """Train a tokenizer on a clip store; repeat the same call to resume.

    Args:
        config: settings of the whole training run; see configs/tokenizer/.
        data: path of a clip store, whose train split is used for training and whose val split for
            validation.
        out: path of the run folder.
        trackers: experiment trackers to log to, besides metrics.jsonl; the trackers also get
            validation clips.
        allowed_changes: settings that a resumed run may change; see `RunFolder`.
        request: stop request whose context has been entered, so that signals stop the run; with
            None, only a file named `stop` in the run folder stops the run.

    Returns:
        The folder of the finished tokenizer, or None if the run was stopped.

    Raises:
        InputError: the store, the clip size, `init_from`, the run folder, a tracker or the number
            of processes is unsuitable; weights of a loss network are missing; a loss or gradient
            was not finite in too many consecutive steps; or the finished tokenizer cannot be
            written.
    """
    accelerator = make_accelerator()
    store, optim, seed = ClipStore(data), config.optim, config.run.seed
    require_even_batch(accelerator, optim.batch_size, optim.accumulation)
    dataset = ClipSequence(store, "train", config.data, seed)
    validation, facts = validation_windows(store, config), facts_of(config, store)

    # Unsuitable inputs raise before the run folder exists; resuming and trackers can raise later.
    tokenizer = starting_tokenizer(config, out, accelerator.print)
    losses = TokenizerLosses(accelerator, config, store)
    run_folder = open_run(
        accelerator, out, "tokenizer", config, store.content_hash, allowed_changes
    )
    if (finished := run_folder.finished_model(optim.steps)) is not None:
        accelerator.print(f"already finished: {finished}")
        return finished

    usage = CodeUsage(config.model.quantizer.vocabulary, accelerator.device)
    training = Training(
        *(accelerator, run_folder, config, tokenizer, "clips", trackers, request),
        usage=usage,
        discriminator=losses.discriminator,
    )
    if config.run.compile:  # not the quantizer between them: its lookup runs in chunks
        size = (training.micro_batch_size, 3, config.data.num_frames, *store.frame_size_hw)
        video = torch.zeros(size, device=accelerator.device)
        compile_parts(
            *(accelerator, training.model, (tokenizer.encoder, tokenizer.decoder)),
            lambda: tokenizer.decoder(tokenizer.encoder(video)).float().square().mean(),
        )
    second_pass = SecondPass(accelerator, tokenizer, losses, config)
    timer, batches = training.timer, training.batches(dataset)
    codebook = tokenizer.quantizer.codebook
    estimator = getattr(config.model.quantizer, "estimator", None)

    def on_device(batch: ClipBatch) -> Tensor:
        return to_pixels(batch.clips.to(accelerator.device, non_blocking=True))

    # Between two turns `training` saves, stops, sets the learning rate and calls `.train()`.
    for turn in training.turns():
        if turn == "validate":
            is_continuous = 0 < training.state.step <= config.continuous_steps
            validate(training, tokenizer, store, validation, is_continuous)
            continue

        # Read this rank's share of the global batch; the first finite latents initialize the codes.
        step = training.state.step  # number of preceding steps, including skipped steps
        with timer("data"):
            micro_batches: list[ClipBatch] = [next(batches) for _ in range(optim.accumulation)]
        continuous = step < config.continuous_steps
        redraws = 0 < step == config.continuous_steps and begin_quantizing(training, config)
        if redraws or not codebook.is_initialized:
            with torch.no_grad(), accelerator.autocast():
                latents = (tokenizer.latents(on_device(batch)) for batch in micro_batches)
                codebook.initialize(tuple(latents), seed)

        # Add up the gradients of tokenizer and discriminator over the micro-batches.
        discriminator = losses.discriminator_at(step)
        statistics: list[CodebookStatistics] = []
        means: dict[str, Tensor] = {}  # mean of each unweighted loss over the micro-batches
        watched: WatchedBatch | None = None  # the last micro-batch of a logged step
        for number, batch in enumerate(micro_batches):
            is_last = number == optim.accumulation - 1
            with timer("data"):
                video = on_device(batch)
            with training.summing(is_last):
                with timer("forward"):
                    output = training.model(video, continuous)
                    if is_last and training.log_is_due:
                        watched = watch(accelerator, video, output.quantized, optim.accumulation)
                    parts = losses(output, video, step, number)
                    loss = losses.total(parts, step)  # each times its weight
                    at_latents = second_pass(output.quantized, video, step, number, watched)
                    watched = watched and watched._replace(at_latents=at_latents)
                    if estimator in at_latents:  # this term supplies the estimator's gradient
                        loss = loss + dot(output.quantized.rows.compared, at_latents[estimator])
                with timer("backward"):
                    training.backward(loss)  # divided by accumulation
            if discriminator is not None:
                with timer("discriminator"):
                    discriminator.learn(video, output.video, optim.accumulation, is_last)
            statistics.append(output.quantized.statistics)
            usage.update(output.quantized.codes)
            for name, value in parts.items():
                means[name] = means.get(name, 0) + value.detach() / optim.accumulation

        # Take the step, or skip it on all ranks; a step also updates codes and averaged weights.
        was_made = training.update(torch.stack([*means.values()]), discriminator)
        restarted = 0
        if was_made:
            with timer("codebook"):
                update = codebook.update(merge(statistics), seed)
                restarted = len(update.restarted)
                every = torch.arange(len(update.counts), device=accelerator.device)
                jumped = codebook.code_rows(every if redraws else update.restarted)
                training.state.averages.update(  # codes that jumped are copied, not averaged
                    tokenizer, {CODEBOOK + name: rows for name, rows in jumped.items()}
                )

        if training.log_is_due:
            with timer("logging"):
                figures, warnings = figures_of(
                    *(training, dataset, means, math.prod(facts.grid_thw)),
                    config.model.quantizer.kind,
                )
                figures |= {f"weight/{name}": losses.weight(name, step) for name in means}
                figures["codebook/restarted"] = restarted
                if was_made:
                    figures |= {} if discriminator is None else discriminator.numbers()
                    assert watched is not None
                    commitment = losses.weight("commitment", step)
                    figures |= watched_step(
                        *(accelerator, tokenizer, watched, commitment, optim.weight_decay)
                    )
            training.log(figures, warnings)

    return training.export(facts) if training.is_finished else None


def begin_quantizing(training: Training, config: TokenizerTrainingConfig) -> bool:
    """Reset the averages for loss-spike warnings; return whether to draw the codes from data."""
    training.state.health.forget()
    return getattr(config.model.quantizer, "init", None) == "data"


def facts_of(config: TokenizerTrainingConfig, store: ClipStore) -> TokenizerFacts:
    """Return the training details that the finished tokenizer records.

    Raises:
        InputError: the clips do not fit the model.
    """
    return TokenizerFacts(
        num_frames=config.data.num_frames,
        stride=config.data.stride,
        frame_size_hw=store.frame_size_hw,
        grid_thw=config.model.backbone.grid_thw((config.data.num_frames, *store.frame_size_hw)),
        trained_on=store.content_hash,
        steps=config.optim.steps,
    )


def figures_of(
    training: Training,
    dataset: ClipSequence,
    means: dict[str, Tensor],
    tokens_per_clip: int,
    kind: str,
) -> tuple[dict[str, float], list[str]]:
    """Return a step's losses, averaged over all ranks, and the code usage since the last log.

    All ranks must call this function.

    Args:
        means: losses of the step on this rank, by name.
        kind: kind of quantizer, for the remedy in a warning.

    Returns:
        Values by metric name, and the warnings that these values cause.
    """
    state, optim = training.state, training.optim
    losses = {
        f"loss/{name}": float(over_ranks(training.accelerator, value, "mean"))
        for name, value in means.items()
    }
    clips_done = state.step * optim.batch_size
    clips_since = training.rhythm.log_every * optim.batch_size
    epoch_ended = dataset.order.ends_between(clips_done - clips_since, clips_done)
    use = state.count_codes(epoch_ended)
    assert state.usage is not None
    least = least_used(use, state.usage.vocabulary, clips_since * tokens_per_clip)
    # The adversarial loss has no lower bound: it could hide a loss spike, or look like one.
    bounded_loss = sum(value for name, value in losses.items() if name != "loss/adversarial")
    warnings = state.health.look(bounded_loss, *least, REMEDIES[kind])
    return {**losses, **use, **state.health.numbers()}, warnings


def validation_windows(store: ClipStore, config: TokenizerTrainingConfig) -> list[Window]:
    """Return the windows of the val split that each validation pass scores.

    The windows stay the same throughout a run.
    """
    return scoring_windows(
        store,
        "val",
        config.data.num_frames,
        config.data.stride,
        config.run.validation_clips,
        config.run.seed,
        config.data.short_videos,
    )


def validate(
    training: Training,
    tokenizer: VideoTokenizer,
    store: ClipStore,
    windows: list[Window],
    continuous: bool = False,
) -> None:
    """Score the averaged weights, and show and log the results.

    All ranks must call this function. If a stop is requested during validation, nothing is logged,
    and validation runs again when the training run is resumed.

    Args:
        continuous: whether to decode the latents instead of the codes; a message says so, and the
            weights are not recorded as the best.
    """
    accelerator, averages = training.accelerator, training.state.averages.tensors
    batch_size = training.micro_batch_size  # batches of this size fit into memory during training
    scores = score(
        *(accelerator, tokenizer, averages, store, windows, batch_size, training.stop, continuous)
    )
    if scores is None:
        return
    if continuous:
        accelerator.print("these are scores of the latents: nothing is quantized yet")
    if training.run_folder.trackers is not None:
        clips = read_windows(store, windows[:SHOWN_CLIPS])
        sheet = _sheet(training, tokenizer, clips, continuous)
        training.run_folder.trackers.log_clip(training.state.step, "validation/clips", sheet)
    figures = {f"validation/{name}": value for name, value in scores._asdict().items()}
    if continuous:
        figures["validation/is_continuous"] = 1.0
    training.note_validation(figures, math.nan if continuous else -scores.psnr)


@torch.no_grad()
def score(
    accelerator: Accelerator,
    tokenizer: VideoTokenizer,
    weights: dict[str, Tensor],
    store: ClipStore,
    windows: list[Window],
    batch_size: int,
    stop: StopFlag,
    continuous: bool = False,
) -> Validation | None:
    """Return the scores of given weights on fixed clips, split among the ranks.

    All ranks must call this function.

    Args:
        tokenizer: tokenizer, not wrapped by DDP; its own weights are not used.
        weights: weights to score, by tensor name.
        windows: windows of the clips for all ranks together.
        batch_size: number of clips per batch on one rank.
        continuous: whether to decode the latents instead of the codes.

    Returns:
        The scores, or None if a stop was requested in the meantime.
    """
    model = tokenizer.eval()
    usage = CodeUsage(model.config.quantizer.vocabulary, accelerator.device)
    total = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for mine in validation_batches(accelerator, windows, "clip", batch_size, stop):
        if mine is None:
            return None
        video = to_pixels(read_windows(store, list(mine)).to(accelerator.device))
        with accelerator.autocast():
            output = functional_call(model, weights, (video, continuous))
        # Pixels lie in [-1, 1]: the peak-to-peak range is 2.
        error = (output.video.clamp(-1, 1) - video).double().square().flatten(1).mean(1)
        total[0] += (10 * torch.log10(4 / error.clamp(min=1e-10))).sum()
        total[1] += len(mine)
        usage.update(output.quantized.codes)
    total = over_ranks(accelerator, total, "sum")
    use = usage.compute()
    return Validation(float(total[0] / total[1]), use.code_usage, use.perplexity)


@torch.no_grad()
def _sheet(
    training: Training,
    tokenizer: VideoTokenizer,
    clips: UInt8[Tensor, "b t h w 3"],
    continuous: bool,
) -> UInt8[np.ndarray, "t h2 w2 3"]:
    """Return a video grid: clips above their reconstructions by the averaged weights."""
    model, weights = tokenizer.eval(), training.state.averages.tensors
    rows = [*clips.numpy()]
    for some in clips.split(training.micro_batch_size):
        video = to_pixels(some.to(training.accelerator.device))
        with training.accelerator.autocast():
            output = functional_call(model, weights, (video, continuous))
        rows += [*to_uint8(output.video).cpu().numpy()]
    return tile(rows, columns=len(clips), scale=max(1, 96 // rows[0].shape[1]))
