"""Training a tokenizer: one function, top to bottom."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import UInt8
from torch import Tensor
from torch.func import functional_call

from video_vq.data.loader import ClipBatch, ClipDataset, read_windows
from video_vq.data.windows import Window, scoring_windows
from video_vq.media.encode import tile
from video_vq.metrics.codebook import CodeUsage
from video_vq.models.tokenizer import VideoTokenizer, to_pixels, to_uint8
from video_vq.models.tokenizer_config import TokenizerFacts
from video_vq.quantizers.codebook import merge
from video_vq.quantizers.rows import CodebookStatistics, QuantizerOutput
from video_vq.stores.clips import ClipStore
from video_vq.training.distributed import (
    StopFlag,
    make_accelerator,
    over_ranks,
    rank_batches,
    require_even_batch,
)
from video_vq.training.initial import starting_tokenizer
from video_vq.training.loop import Training, open_run
from video_vq.training.losses import TokenizerLosses
from video_vq.training.mechanism import watched_step
from video_vq.training.progress_line import ProgressLine
from video_vq.training.stop_request import StopRequest
from video_vq.training.trackers import TrackerName
from video_vq.training.training_config import TokenizerTrainingConfig

CODES = "quantizer.codebook.codes"  # of a tokenizer's tensors
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
    """Train a tokenizer on a clip store; the same call again resumes.

    Args:
        config: see configs/tokenizer/.
        data: a clip store; clips come from its train split, validation from val.
        out: the run folder.
        trackers: that show the run beside metrics.jsonl, with clips of the validation.
        allowed_changes: settings that a resume may change; see `RunFolder`.
        request: one that is entered, for a run that signals stop; else a file `stop` does.

    Returns:
        The folder of the finished tokenizer, or None when the run was stopped.

    Raises:
        InputError: store, sizes, run folder or number of processes are wrong; too many steps in a
            row were not finite.
    """
    accelerator = make_accelerator()
    store, optim, seed = ClipStore(data), config.optim, config.run.seed
    require_even_batch(accelerator, optim.batch_size, optim.accumulation)
    dataset = ClipDataset(store, "train", config.data, seed)
    validation = validation_windows(store, config)
    facts = facts_of(config, store)

    # All that can be refused is refused before the run folder is made.
    tokenizer = starting_tokenizer(config, out, accelerator.print)
    losses = TokenizerLosses(accelerator, config, store)
    run = open_run(accelerator, out, "tokenizer", config, store.content_hash, allowed_changes)
    if (finished := run.finished_model(optim.steps)) is not None:
        accelerator.print(f"already finished: {finished}")
        return finished

    usage = CodeUsage(config.model.quantizer.codebook_size).to(accelerator.device)
    training = Training(
        accelerator, run, config, tokenizer, "clips", trackers, request, usage, losses.discriminator
    )
    if config.run.compile:  # not the quantizer between them: its lookup walks through memory
        tokenizer.encoder.compile()
        tokenizer.decoder.compile()
    timer, batches = training.timer, training.batches(dataset)
    codebook = tokenizer.quantizer.codebook

    def on_device(batch: ClipBatch) -> Tensor:
        return to_pixels(batch.clips.to(accelerator.device, non_blocking=True))

    for turn in training.turns():
        if turn == "validate":
            validate(training, tokenizer, store, validation)
            continue

        # Read this rank's share of the global batch; the very first one gives the first codes.
        step = training.state.step  # steps done before this one
        with timer("data"):
            micro_batches: list[ClipBatch] = [next(batches) for _ in range(optim.accumulation)]
        if not codebook.is_initialized:
            with torch.no_grad(), accelerator.autocast():
                latents = (tokenizer.latents(on_device(batch)) for batch in micro_batches)
                codebook.initialize(tuple(latents), seed)

        # Add up the gradients of the micro-batches, of the tokenizer and of the discriminator.
        discriminator = losses.discriminator_at(step)
        statistics: list[CodebookStatistics] = []
        weights: dict[str, float] = {}
        means: dict[str, Tensor] = {}  # of each loss over the micro-batches, unweighted
        watched: list[tuple[Tensor, QuantizerOutput]] = []  # the last micro-batch of a logged step
        for number, batch in enumerate(micro_batches):
            is_last = number == optim.accumulation - 1
            with timer("data"):
                video = on_device(batch)
            with training.summing(is_last):
                with timer("forward"):
                    output = training.model(video)
                    if is_last and training.log_is_due:
                        output.quantized.rows.passed.retain_grad()
                        watched.append((video, output.quantized))
                    parts = losses(output, video, step, number)
                    weights = {name: losses.weight(name, step) for name in parts}
                    loss = torch.stack([weights[name] * parts[name] for name in parts]).sum()
                with timer("backward"):
                    training.backward(loss)
            if discriminator is not None:
                with timer("discriminator"):
                    discriminator.learn(video, output.video, optim.accumulation, is_last)
            statistics.append(output.quantized.statistics)
            usage.update(output.quantized.codes)
            for name, value in parts.items():
                means[name] = means.get(name, 0) + value.detach() / optim.accumulation

        # Make the step, or none on all ranks; then move the codes and the averaged weights.
        was_made = training.update(torch.stack(list(means.values())).sum(), discriminator)
        restarted = 0
        if was_made:
            with timer("codebook"):
                update = codebook.update(merge(statistics), seed)
                restarted = len(update.restarted)
                jumped = {CODES: update.restarted} if restarted else {}  # copied, not averaged
                training.state.averages.update(tokenizer, jumped)

        if training.log_is_due:
            with timer("logging"):
                figures, warnings = figures_of(training, dataset, means, math.prod(facts.grid_thw))
                figures |= {f"weight/{name}": weight for name, weight in weights.items()}
                figures["codebook/restarted"] = restarted
                if was_made:
                    figures |= {} if discriminator is None else discriminator.numbers()
                    figures |= watched_step(accelerator, tokenizer, *watched[-1])
            training.log(figures, warnings)

    return training.export(facts) if training.is_finished else None


def facts_of(config: TokenizerTrainingConfig, store: ClipStore) -> TokenizerFacts:
    """Return what the finished tokenizer will say of its training.

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
    training: Training, dataset: ClipDataset, means: dict[str, Tensor], tokens_per_clip: int
) -> tuple[dict[str, float], list[str]]:
    """Return a step's losses over all ranks and the codes' use since the last line; collective.

    Args:
        training: after the step.
        dataset: knows where its epochs end.
        means: losses of the step on this rank.
        tokens_per_clip: how many codes a clip has.

    Returns:
        Numbers by path, and warnings that they give rise to.
    """
    state, optim = training.state, training.optim
    losses = {
        f"loss/{name}": float(over_ranks(training.accelerator, value, "mean"))
        for name, value in means.items()
    }
    clips_done, clips_since = (
        state.step * optim.batch_size,
        training.rhythm.log_every * optim.batch_size,
    )
    epoch_ended = dataset.order.ends_between(clips_done - clips_since, clips_done)
    use = state.count_codes(epoch_ended)
    # The fraction of the codes that so many tokens would use if all codes were as likely.
    assert state.usage is not None
    possible = 1 - (1 - 1 / state.usage.codebook_size) ** (clips_since * tokens_per_clip)
    # The adversarial loss has no floor: it would hide a jump, or look like one.
    told = sum(value for name, value in losses.items() if name != "loss/adversarial")
    warnings = state.health.look(told, use["codebook/usage"], possible)
    return {**losses, **use, **state.health.numbers()}, warnings


def validation_windows(store: ClipStore, config: TokenizerTrainingConfig) -> list[Window]:
    """Return the fixed clips of the val split, the same all through a run."""
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
    training: Training, tokenizer: VideoTokenizer, store: ClipStore, windows: list[Window]
) -> None:
    """Score, show and log the averaged weights; collective.

    Nothing is logged where the run was asked to stop in the meantime: it is done again then.
    """
    accelerator, averages = training.accelerator, training.state.averages.tensors
    batch_size = training.optim.batch_size
    scores = score(accelerator, tokenizer, averages, store, windows, batch_size, training.stop)
    if scores is None:
        return
    if training.run.trackers is not None:
        clips = read_windows(store, windows[:SHOWN_CLIPS])
        sheet = originals_and_reconstructions(accelerator, tokenizer, averages, clips)
        training.run.trackers.log_clip(training.state.step, "validation/clips", sheet)
    figures = {f"validation/{name}": value for name, value in scores._asdict().items()}
    training.note_validation(figures, -scores.psnr)


@torch.no_grad()
def score(
    accelerator: Accelerator,
    tokenizer: VideoTokenizer,
    weights: dict[str, Tensor],
    store: ClipStore,
    windows: list[Window],
    batch_size: int,
    stop: StopFlag,
) -> Validation | None:
    """Score weights on fixed clips, shared among the ranks; collective.

    Returns:
        None when the run was asked to stop in the meantime.
    """
    started = time.monotonic()
    model = tokenizer.eval()
    usage = CodeUsage(model.config.quantizer.codebook_size).to(accelerator.device)
    total, done = torch.zeros(2, dtype=torch.float64, device=accelerator.device), 0
    progress = ProgressLine(
        "validating: clip", len(windows), rate="clips", is_shown=accelerator.is_main_process
    )
    for mine in rank_batches(accelerator, windows, batch_size):
        if stop.is_set():
            return None
        if not mine:
            usage.update(usage.counts[:0])
            continue
        video = to_pixels(read_windows(store, list(mine)).to(accelerator.device))
        with accelerator.autocast():
            output = functional_call(model, weights, (video,))
        # Pixels lie in [-1, 1]: the peak-to-peak range is 2.
        error = (output.video.clamp(-1, 1) - video).double().square().flatten(1).mean(1)
        total[0] += (10 * torch.log10(4 / error.clamp(min=1e-10))).sum()
        total[1] += len(mine)
        usage.update(output.quantized.codes)
        done += len(mine) * accelerator.num_processes
        progress.look(min(done, len(windows)))
    total = over_ranks(accelerator, total, "sum")
    accelerator.print(f"validated on {int(total[1])} clips in {time.monotonic() - started:.1f} s")
    use = usage.compute()
    return Validation(float(total[0] / total[1]), use.code_usage, use.perplexity)


@torch.no_grad()
def originals_and_reconstructions(
    accelerator: Accelerator,
    tokenizer: VideoTokenizer,
    weights: dict[str, Tensor],
    clips: UInt8[Tensor, "b t h w 3"],
) -> UInt8[np.ndarray, "t h2 w2 3"]:
    """Return a playing sheet: clips above their reconstructions by these weights."""
    model = tokenizer.eval()
    with accelerator.autocast():
        video = to_pixels(clips.to(accelerator.device))
        output = functional_call(model, weights, (video,))
    rows = [*clips.numpy(), *to_uint8(output.video).cpu().numpy()]
    return tile(rows, columns=len(clips), scale=max(1, 96 // rows[0].shape[1]))
