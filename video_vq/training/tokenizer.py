"""Training a tokenizer: one function, the loop visible."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch.func import functional_call

from video_vq.config import to_json
from video_vq.data.loader import ClipBatch, ClipDataset, read_windows, training_batches
from video_vq.data.order import rank_positions
from video_vq.data.windows import Window, scoring_windows
from video_vq.media.encode import tile
from video_vq.metrics.codebook import CodeUsage
from video_vq.models.tokenizer import VideoTokenizer, to_pixels, to_uint8
from video_vq.models.tokenizer_config import TokenizerFacts
from video_vq.quantizers.codebook import merge
from video_vq.quantizers.rows import CodebookStatistics, QuantizerOutput
from video_vq.stores.clips import ClipStore
from video_vq.training.adversarial import Adversary, check_adversarial
from video_vq.training.audit import Audit
from video_vq.training.compiled import uncompiled
from video_vq.training.distributed import (
    StopFlag,
    all_finite,
    clip_gradients,
    main_process_first,
    make_accelerator,
    over_ranks,
    rank_batches,
    require_even_batch,
)
from video_vq.training.initial import initial_tensors
from video_vq.training.losses import (
    draw_frames,
    load_perceptual,
    loss_weights,
    perceptual_loss,
    reconstruction_loss,
    reconstruction_weight,
)
from video_vq.training.mechanism import watched_step
from video_vq.training.run_folder import RunFolder, diverged
from video_vq.training.schedule import learning_rate, make_optimizer, set_learning_rate
from video_vq.training.state import TrainingState
from video_vq.training.stop_request import StopRequest
from video_vq.training.timer import StepTimer
from video_vq.training.trackers import TrackerName
from video_vq.training.training_config import TokenizerTrainingConfig


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
    store = ClipStore(data)
    size_thw = (config.data.num_frames, *store.frame_size_hw)
    grid_thw = config.model.backbone.grid_thw(size_thw)
    optim, seed = config.optim, config.run.seed
    dataset = ClipDataset(store, "train", config.data, seed)
    validation = validation_windows(store, config)
    facts = {
        "data": store.content_hash,
        "precision": accelerator.mixed_precision,
        "world_size": accelerator.num_processes,
        "threads": torch.get_num_threads() if accelerator.device.type == "cpu" else None,
    }
    require_even_batch(accelerator, optim.batch_size, optim.accumulation)
    perceptual = load_perceptual(config.loss.perceptual, size_thw, accelerator.device)
    check_adversarial(config.loss.adversarial, accelerator.mixed_precision, store.frame_size_hw)
    initial = initial_tensors(config, out, accelerator.print)
    pixel_weight = reconstruction_weight(store, config)
    with main_process_first(accelerator):
        run = RunFolder(
            out, "tokenizer", to_json(config), facts, accelerator.is_main_process, allowed_changes
        )

    if (finished := run.finished_model(optim.steps)) is not None:
        accelerator.print(f"already finished: {finished}")
        return finished

    torch.manual_seed(seed)
    tokenizer = VideoTokenizer(config.model, config.run.checkpoint_activations)
    if initial is not None:
        tokenizer.load_state_dict(initial)
    optimizer = make_optimizer(tokenizer.to(accelerator.device), optim)
    adversary = None
    if config.loss.adversarial.weight:
        adversary = Adversary(accelerator, config.loss.adversarial, optim)
    usage = CodeUsage(config.model.quantizer.codebook_size).to(accelerator.device)
    state = TrainingState(accelerator, tokenizer, config.run.average_decay, usage, adversary)
    torch.manual_seed(seed + 1 + accelerator.process_index)
    state.resume(run, optimizer, optim.steps)
    run.track(trackers, state.step)
    model, optimizer = accelerator.prepare(tokenizer, optimizer)
    if adversary is not None:
        adversary.prepare()
    if config.run.compile:  # not the quantizer between them: its lookup walks through memory
        tokenizer.encoder.compile()
        tokenizer.decoder.compile()
    codebook = tokenizer.quantizer.codebook
    share = {
        "batch_size": optim.batch_size,
        "accumulation": optim.accumulation,
        "world_size": accelerator.num_processes,
    }
    rank = accelerator.process_index
    loader = training_batches(
        dataset,
        first_step=state.step,
        last_step=optim.steps,
        rank=rank,
        num_workers=config.run.num_workers,
        **share,
    )
    batches = iter(loader)
    timer, audit = StepTimer(), Audit(accelerator, model, out, config.run.audit_every)
    stop = StopFlag(accelerator, out, request)

    def on_device(batch: ClipBatch) -> torch.Tensor:
        return to_pixels(batch.clips.to(accelerator.device, non_blocking=True))

    accelerator.print(
        f"training steps {state.step + 1} to {optim.steps}, {optim.batch_size} clips each; "
        f"a line every {config.run.log_every} steps"
    )
    while True:
        if state.validation_is_due:
            with uncompiled(config.run.compile):
                scores = validate(
                    accelerator, tokenizer, state, store, validation, optim.batch_size, stop
                )
                if scores is not None:
                    show_validation(accelerator, tokenizer, state, store, validation, run)
            if scores is not None:
                state.note_validation(-scores.psnr)
                figures = {f"validation/{name}": value for name, value in scores._asdict().items()}
                run.log(state.step, figures)
            timer.restart()
        finished, stopping = state.step == optim.steps, stop.is_set()
        if state.save_is_due(config.run.checkpoint_every, finished or stopping):
            state.save(run, optimizer)
            timer.restart()
        if stopping and (state.validation_is_due or not finished):
            run.close()
            stop.clear(state.step, optim.steps, state.wait_for_save())
            return None
        if finished:
            state.wait_for_save()
            break

        model.train()
        lr = learning_rate(optim, state.step)
        set_learning_rate(optimizer, lr)
        weights = loss_weights(config.loss, pixel_weight, state.step)
        opponent = adversary if adversary is not None and adversary.plays(state.step) else None
        statistics: list[CodebookStatistics] = []
        watched: list[tuple[torch.Tensor, QuantizerOutput]] = []
        losses: dict[str, torch.Tensor] = {}
        with timer("data"):
            micro_batches = [next(batches) for _ in range(optim.accumulation)]
        if not codebook.is_initialized:
            with torch.no_grad(), accelerator.autocast():
                latents = (tokenizer.latents(on_device(batch)) for batch in micro_batches)
                codebook.initialize(tuple(latents), seed)
        for micro_batch, batch in enumerate(micro_batches):
            with timer("data"):
                video = on_device(batch)
                audit.note(batch.videos)
            last = micro_batch == optim.accumulation - 1
            with accelerator.no_sync(model) if not last else timer.nothing():
                with timer("forward"):
                    output = model(video)
                    if last and (state.step + 1) % config.run.log_every == 0:
                        output.quantized.rows.passed.retain_grad()
                        watched.append((video, output.quantized))
                    parts = {
                        "reconstruction": reconstruction_loss(
                            output.video, video, config.loss.reconstruction
                        ),
                        **output.quantized.losses,
                    }
                    if perceptual is not None:
                        positions = rank_positions(state.step, micro_batch, rank, **share)
                        parts["perceptual"] = perceptual_loss(
                            perceptual,
                            output.video,
                            video,
                            draw_frames(len(video[0, 0]), config.loss.perceptual, positions, seed),
                        )
                    if opponent is not None:
                        parts["adversarial"] = opponent.fooling_loss(output.video)
                    loss = torch.stack([weights[name] * parts[name] for name in parts]).sum()
                with timer("backward"):
                    accelerator.backward(loss / optim.accumulation)
            if opponent is not None:
                with timer("discriminator"):
                    opponent.learn(video, output.video, optim.accumulation, last)
            statistics.append(output.quantized.statistics)
            usage.update(output.quantized.codes)
            for name, value in parts.items():
                losses[name] = losses.get(name, 0) + value.detach() / optim.accumulation

        with timer("step"):
            norm = clip_gradients(accelerator, model, optim.clip_norm)
            total = torch.stack(list(losses.values())).sum()
            norms = [norm] if opponent is None else [norm, opponent.clip()]
            healthy = all_finite(accelerator, total, *norms)
            if healthy or accelerator.scaler is not None:
                optimizer.step()
            optimizer.zero_grad()
            if opponent is not None:
                opponent.step(healthy, lr)
        state.end_step(healthy, config.run, optim.steps)
        if state.bad_in_a_row >= optim.max_bad_steps:
            state.wait_for_save()
            raise diverged(run, state.step, state.bad_in_a_row)
        restarted = 0
        if healthy:
            with timer("codebook"):
                update = codebook.update(merge(statistics), seed)
                restarted = len(update.restarted)
                state.averages.update(tokenizer, {_CODES: update.restarted} if restarted else None)
        audit.write(state.step, lambda: held_tensors(tokenizer, adversary))

        timer.end_step()
        if state.step % config.run.log_every == 0:
            with timer("logging"):
                means = {
                    f"loss/{name}": float(over_ranks(accelerator, value, "mean"))
                    for name, value in losses.items()
                }
                window = config.run.log_every * optim.batch_size
                ended = dataset.order.ends_between(
                    state.step * optim.batch_size - window, state.step * optim.batch_size
                )
                use = state.count_codes(ended)
                possible = 1 - (1 - 1 / usage.codebook_size) ** (window * math.prod(grid_thw))
                # The adversarial loss has no floor: it would hide a jump, or look like one.
                told = sum(value for name, value in means.items() if name != "loss/adversarial")
                warnings = state.health.look(told, use["codebook/usage"], possible)
                figures = {
                    **means,
                    **use,
                    **{f"weight/{name}": weights[name] for name in losses},
                    **({} if opponent is None or not healthy else opponent.numbers()),
                    "codebook/restarted": restarted,
                    **(watched_step(accelerator, tokenizer, *watched[-1]) if healthy else {}),
                    "optim/grad_norm": norm.item(),
                    "optim/lr": lr,
                    "optim/skipped_steps": state.skipped_steps,
                    **state.health.numbers(),
                }
            figures |= timer.numbers(optim.batch_size, optim.steps - state.step)
            with timer("logging"):
                run.log(state.step, figures, warnings)

    if accelerator.is_main_process:
        tokenizer.load_state_dict(state.averages.tensors)
        tokenizer.facts = TokenizerFacts(
            num_frames=config.data.num_frames,
            stride=config.data.stride,
            frame_size_hw=store.frame_size_hw,
            grid_thw=grid_thw,
            trained_on=store.content_hash,
            steps=state.step,
        )
        with run.exporting(out / "tokenizer"):
            tokenizer.save_pretrained(out / "tokenizer")
    run.close()
    accelerator.wait_for_everyone()
    return out / "tokenizer"


_CODES = "quantizer.codebook.codes"


def held_tensors(
    tokenizer: VideoTokenizer, adversary: Adversary | None
) -> dict[str, dict[str, torch.Tensor]]:
    """Return what all ranks must hold alike, for the audit."""
    return {
        "codebook": tokenizer.quantizer.codebook.state_dict(),
        "model": tokenizer.state_dict(),
        **({} if adversary is None else adversary.tensors()),
    }


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


@torch.no_grad()
def validate(
    accelerator: Accelerator,
    tokenizer: VideoTokenizer,
    state: TrainingState,
    store: ClipStore,
    windows: list[Window],
    batch_size: int,
    stop: StopFlag,
) -> Validation | None:
    """Score the averaged weights on fixed clips, shared among the ranks; collective.

    Returns:
        None when the run was asked to stop in the meantime.
    """
    started = time.monotonic()
    model = tokenizer.eval()
    usage = CodeUsage(model.config.quantizer.codebook_size).to(accelerator.device)
    total = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for mine in rank_batches(accelerator, windows, batch_size):
        if stop.is_set():
            return None
        if not mine:
            usage.update(usage.counts[:0])
            continue
        video = to_pixels(read_windows(store, list(mine)).to(accelerator.device))
        with accelerator.autocast():
            output = functional_call(model, state.averages.tensors, (video,))
        # Pixels lie in [-1, 1]: the peak-to-peak range is 2.
        error = (output.video.clamp(-1, 1) - video).double().square().flatten(1).mean(1)
        total[0] += (10 * torch.log10(4 / error.clamp(min=1e-10))).sum()
        total[1] += len(mine)
        usage.update(output.quantized.codes)
    total = over_ranks(accelerator, total, "sum")
    accelerator.print(f"validated on {int(total[1])} clips in {time.monotonic() - started:.1f} s")
    use = usage.compute()
    return Validation(float(total[0] / total[1]), use.code_usage, use.perplexity)


SHOWN_CLIPS = 4


@torch.no_grad()
def show_validation(
    accelerator: Accelerator,
    tokenizer: VideoTokenizer,
    state: TrainingState,
    store: ClipStore,
    windows: list[Window],
    run: RunFolder,
) -> None:
    """Send the first validation clips, originals above reconstructions, to the run's trackers."""
    if run.trackers is None:
        return
    clips = read_windows(store, windows[:SHOWN_CLIPS])
    model = tokenizer.eval()
    with accelerator.autocast():
        video = to_pixels(clips.to(accelerator.device))
        output = functional_call(model, state.averages.tensors, (video,))
    rows = [*clips.numpy(), *to_uint8(output.video).cpu().numpy()]
    sheet = tile(rows, columns=len(clips), scale=max(1, 96 // rows[0].shape[1]))
    run.trackers.log_clip(state.step, "validation/clips", sheet)
