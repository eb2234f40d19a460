"""Training a prior on a token store, never on pixels: one function, the loop visible."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from video_vq.config import to_json
from video_vq.data.loader import TokenDataset, read_grids, training_batches
from video_vq.models.prior import Prior, prior_loss, token_nats
from video_vq.models.prior_config import PriorFacts, config_for
from video_vq.stores.tokens import TokenStore
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
from video_vq.training.run_folder import RunFolder, diverged
from video_vq.training.schedule import learning_rate, make_optimizer, set_learning_rate
from video_vq.training.state import TrainingState
from video_vq.training.stop_request import StopRequest
from video_vq.training.timer import StepTimer
from video_vq.training.trackers import TrackerName
from video_vq.training.training_config import PriorTrainingConfig


def train_prior(
    config: PriorTrainingConfig,
    tokens: Path,
    out: Path,
    trackers: Sequence[TrackerName] = (),
    allowed_changes: Sequence[str] = (),
    request: StopRequest | None = None,
) -> Path | None:
    """Train a prior on a token store; the same call again resumes.

    Args:
        config: see configs/prior/.
        tokens: a token store; training grids come from its train split, validation from val.
        out: the run folder.
        trackers: that show the run beside metrics.jsonl.
        allowed_changes: settings that a resume may change; see `RunFolder`.
        request: one that is entered, for a run that signals stop; else a file `stop` does.

    Returns:
        The folder of the finished prior, or None when the run was stopped.

    Raises:
        InputError: store, run folder or number of processes are wrong; too many steps in a row
            were not finite.
    """
    accelerator = make_accelerator()
    store = TokenStore(tokens)
    optim, seed = config.optim, config.run.seed
    dataset = TokenDataset(store, "train", seed)
    validation = np.random.default_rng([seed, 0x7A1]).permutation(store.rows("val"))
    validation = validation[: config.run.validation_clips]
    header = store.header
    model_config = config_for(header, config.model)
    facts = {
        "data": store.content_hash,
        "precision": accelerator.mixed_precision,
        "world_size": accelerator.num_processes,
        "threads": torch.get_num_threads() if accelerator.device.type == "cpu" else None,
    }
    require_even_batch(accelerator, optim.batch_size, optim.accumulation)
    with main_process_first(accelerator):
        run = RunFolder(
            out, "prior", to_json(config), facts, accelerator.is_main_process, allowed_changes
        )

    if (finished := run.finished_model(optim.steps)) is not None:
        accelerator.print(f"already finished: {finished}")
        return finished

    torch.manual_seed(seed)
    prior = Prior(model_config, config.run.checkpoint_activations)
    if header.num_action_dims:
        prior.set_action_statistics(*action_statistics(store))
    prior.to(accelerator.device)
    optimizer = make_optimizer(prior, optim)
    state = TrainingState(accelerator, prior, config.run.average_decay)
    torch.manual_seed(seed + 1 + accelerator.process_index)
    state.resume(run, optimizer, optim.steps)
    run.track(trackers, state.step)
    model, optimizer = accelerator.prepare(prior, optimizer)
    if config.run.compile:
        model.compile()
    batches = iter(
        training_batches(
            dataset,
            first_step=state.step,
            last_step=optim.steps,
            rank=accelerator.process_index,
            batch_size=optim.batch_size,
            accumulation=optim.accumulation,
            world_size=accelerator.num_processes,
            num_workers=config.run.num_workers,
        )
    )
    timer = StepTimer()
    stop = StopFlag(accelerator, out, request)

    accelerator.print(
        f"training steps {state.step + 1} to {optim.steps}, {optim.batch_size} grids each; "
        f"a line every {config.run.log_every} steps"
    )
    while True:
        if state.validation_is_due:
            with uncompiled(config.run.compile):
                bits = validate(
                    accelerator, prior, state, store, validation, optim.batch_size, stop
                )
            if bits is not None:
                state.note_validation(bits)
                run.log(state.step, {"validation/bits_per_token": bits})
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
        set_learning_rate(optimizer, learning_rate(optim, state.step))
        nats = torch.zeros((), device=accelerator.device)
        for micro_batch in range(optim.accumulation):
            with timer("data"):
                batch = next(batches).flat(accelerator.device)
            last = micro_batch == optim.accumulation - 1
            with accelerator.no_sync(model) if not last else timer.nothing():
                with timer("forward"):
                    loss = prior_loss(model(*batch), batch.tokens).nats
                with timer("backward"):
                    accelerator.backward(loss / optim.accumulation)
            nats += loss.detach() / optim.accumulation

        with timer("step"):
            norm = clip_gradients(accelerator, model, optim.clip_norm)
            healthy = all_finite(accelerator, nats, norm)
            if healthy or accelerator.scaler is not None:
                optimizer.step()
            optimizer.zero_grad()
            if healthy:
                state.averages.update(prior)
        state.end_step(healthy, config.run, optim.steps)
        if state.bad_in_a_row >= optim.max_bad_steps:
            state.wait_for_save()
            raise diverged(run, state.step, state.bad_in_a_row)

        timer.end_step()
        if state.step % config.run.log_every == 0:
            with timer("logging"):
                bits = float(over_ranks(accelerator, nats, "mean")) / math.log(2)
                warnings = state.health.look(bits)
                figures = {
                    "loss/bits_per_token": bits,
                    "optim/grad_norm": norm.item(),
                    "optim/lr": learning_rate(optim, state.step - 1),
                    "optim/skipped_steps": state.skipped_steps,
                    "warnings/loss_spikes": state.health.loss_spikes,
                }
            figures |= timer.numbers(optim.batch_size, optim.steps - state.step)
            with timer("logging"):
                run.log(state.step, figures, warnings)

    if accelerator.is_main_process:
        prior.load_state_dict(state.averages.tensors)
        prior.facts = PriorFacts(
            tokenizer_hash=header.tokenizer_hash,
            classes=header.classes,
            num_frames=header.num_frames,
            frame_size_hw=header.frame_size_hw,
            fps=header.fps,
            trained_on=store.content_hash,
            steps=state.step,
        )
        with run.exporting(out / "prior"):
            prior.save_pretrained(out / "prior")
    run.close()
    accelerator.wait_for_everyone()
    return out / "prior"


def action_statistics(store: TokenStore) -> tuple[Float[Tensor, " a"], Float[Tensor, " a"]]:
    """Return mean and deviation of the train split's actions, summed in float64.

    The first latent frame has places that stand for no action (`data/actions.py`) and is left out
    where there are others. A constant number gets the deviation 1.
    """
    first = min(1, store.header.grid_thw[0] - 1)
    size = store.header.num_action_dims
    shift, sums, squares, count = np.zeros(size), np.zeros(size), np.zeros(size), 0
    for row in store.rows("train"):
        actions = store.read_actions(int(row))
        assert actions is not None
        values = actions[first:].astype(np.float64)
        if not count:
            shift = values[0]  # near the mean: squares around it lose no digits
        sums += (values - shift).sum(0)
        squares += np.square(values - shift).sum(0)
        count += len(values)
    variance = np.maximum(squares / count - np.square(sums / count), 0)
    mean = (shift + sums / count).astype(np.float32)
    std = np.sqrt(variance).astype(np.float32)
    std[std <= 1e-6 * np.maximum(np.abs(mean), 1e-30)] = 1
    return torch.from_numpy(mean), torch.from_numpy(std)


@torch.no_grad()
def validate(
    accelerator: Accelerator,
    prior: Prior,
    state: TrainingState,
    store: TokenStore,
    rows: np.ndarray,
    batch_size: int,
    stop: StopFlag,
) -> float | None:
    """Return bits per token of the averaged weights on fixed grids; collective.

    None when the run was asked to stop in the meantime.
    """
    started = time.monotonic()
    prior.eval()
    total = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for chosen in rank_batches(accelerator, [int(row) for row in rows], batch_size):
        if stop.is_set():
            return None
        if not chosen:
            continue
        batch = read_grids(store, chosen).flat(accelerator.device)
        with accelerator.autocast():
            logits = functional_call(prior, state.averages.tensors, tuple(batch))
        total[0] += token_nats(logits, batch.tokens).double().sum()
        total[1] += batch.tokens.numel()
    total = over_ranks(accelerator, total, "sum")
    accelerator.print(f"validated on {len(rows)} grids in {time.monotonic() - started:.1f} s")
    return float(total[0] / total[1]) / math.log(2)
