"""The state of a run, saved and restored exactly: model, averages, optimizer and counters."""

import math
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated, Any

import torch
from accelerate import Accelerator
from pydantic import Field, NonNegativeInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from video_vq.config import STRICT, check_config, to_json
from video_vq.errors import InputError
from video_vq.metrics.code_usage import CodeUsage
from video_vq.models.pretrained import check_tensors
from video_vq.training.averaging import Averages
from video_vq.training.checkpoint import Tensors, random_state, set_random_state
from video_vq.training.discriminator import Discriminator
from video_vq.training.health import Health
from video_vq.training.optimizer import load_optimizer, optimizer_tensors
from video_vq.training.run_folder import RunFolder
from video_vq.training.training_config import RunConfig


@dataclass(frozen=True, config=STRICT)
class SavedState:
    """The part of the state that is not in tensors: `state.json` of a checkpoint."""

    step: NonNegativeInt
    skipped_steps: NonNegativeInt
    bad_in_a_row: NonNegativeInt
    best: tuple[float, NonNegativeInt] | None
    validation_is_due: bool
    health: Health
    average_updates: NonNegativeInt
    log_position: NonNegativeInt
    world_size: Annotated[int, Field(ge=1)]
    scaler: dict[str, int | float] | None


class Snapshot:
    """Copies of tensors in main memory, whose buffers are reused by later copies."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def take(self, tensors: Tensors) -> Tensors:
        """Return copies of tensors, by file name and tensor name; overwrite the earlier copies."""
        return {
            file: {name: self._copy((file, name), value) for name, value in values.items()}
            for file, values in tensors.items()
        }

    def _copy(self, key: tuple[str, str], value: Tensor) -> Tensor:
        value = value.detach()
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            self._buffers[key] = value.to("cpu", copy=True)
        else:
            buffer.copy_(value)
        return self._buffers[key]


class TrainingState:
    """The complete state of a run, from which the run can be resumed.

    Args:
        model: model, not wrapped by DDP.
        rhythm: run settings, including `average_decay`.
        usage: code usage since the last logged step; None for a prior.
        discriminator: adversarial discriminator, before `prepare`; None if there is none.

    Attributes:
        step: number of optimizer steps done, including skipped ones.
        saved_step: last step at which a save was attempted.
        validation_is_due: whether the current weights have yet to be validated; saved in the
            checkpoint.
        epoch_usage: code usage since the end of the last epoch that was logged.
        skipped_steps: number of steps skipped because a loss or gradient was not finite.
        bad_in_a_row: number of consecutive skipped steps, up to and including the last step.
        best: best finite validation value so far and its step; None if there is no such value yet.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        rhythm: RunConfig,
        usage: CodeUsage | None = None,
        discriminator: Discriminator | None = None,
    ):
        self.accelerator = accelerator
        self.model = model
        self.usage = usage
        self.discriminator = discriminator
        self.epoch_usage = None if usage is None else CodeUsage(usage.vocabulary, usage.device)
        self.health = Health.at_start()
        self._snapshot = Snapshot()
        self._writer = ThreadPoolExecutor(1)  # the interpreter waits for this thread to end
        self._saving: Future[None] | None = None
        self.averages = Averages(model, rhythm)
        self.step = 0
        self.saved_step = 0
        self.validation_is_due = False
        self.skipped_steps = 0
        self.bad_in_a_row = 0
        self.best: tuple[float, int] | None = None

    def end_step(self, healthy: bool, rhythm: RunConfig, last_step: int) -> None:
        """Count a step that was taken or skipped, and update `validation_is_due`.

        Args:
            healthy: whether the step was taken.
        """
        self.step += 1
        self.validation_is_due = self.step % rhythm.validate_every == 0 or self.step == last_step
        self.skipped_steps += not healthy
        self.bad_in_a_row = 0 if healthy else self.bad_in_a_row + 1

    def note_validation(self, value: float) -> None:
        """Record the value of a validation pass, and the step if the value is the best so far.

        Args:
            value: number by which checkpoints are compared; lower is better, and NaN is never the
                best.
        """
        self.validation_is_due = False
        if math.isfinite(value) and (self.best is None or value < self.best[0]):
            self.best = (value, self.step)

    def save_is_due(self, every: int, ending: bool) -> bool:
        """Return whether to save a checkpoint after this step.

        A checkpoint is due every `every` steps, after the best validation so far, and at the end,
        unless this step has already been saved.

        Args:
            every: number of steps between regular checkpoints.
            ending: whether the run ends or stops after this step.
        """
        is_best = self.best is not None and self.best[1] == self.step
        return self.step > self.saved_step and (ending or is_best or self.step % every == 0)

    def save(self, run_folder: RunFolder, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint.

        All ranks must call this method, as the checkpoint contains each rank's random state. The
        method returns once everything is copied, and training continues while the checkpoint is
        written; `wait_for_save` returns whether writing succeeded. If the disk is full or
        faulty, or weights are not finite, this checkpoint is lost but the run continues: a message
        says so, and the last good checkpoint is kept.
        """
        self.wait_for_save()  # the previous one, which has its own message
        self.saved_step = self.step
        random = self._gathered_random_state()
        usage = self._summed_usage()
        if not self.accelerator.is_main_process:
            return
        tensors = self._snapshot.take(
            {
                "model": dict(self.model.state_dict()),
                "averages": self.averages.tensors,
                "optimizer": optimizer_tensors(optimizer),
                "random": random,
                "usage": usage,
                **({} if self.discriminator is None else self.discriminator.tensors()),
            }
        )
        scaler = self.accelerator.scaler
        saved = SavedState(
            step=self.step,
            skipped_steps=self.skipped_steps,
            bad_in_a_row=self.bad_in_a_row,
            best=self.best,
            validation_is_due=self.validation_is_due,
            health=self.health,
            average_updates=self.averages.num_updates,
            log_position=run_folder.log_position(),
            world_size=self.accelerator.num_processes,
            scaler=None if scaler is None else scaler.state_dict(),
        )
        state, keep = to_json(saved), set() if self.best is None else {self.best[1]}
        step = self.step

        def write() -> None:
            if name := not_finite(tensors):
                raise InputError(f"{name} is not finite")
            run_folder.checkpoints.save(step, tensors, state, keep)

        self._saving = self._writer.submit(write)

    def wait_for_save(self) -> bool:
        """Wait for the checkpoint that is being written; return False if writing failed."""
        if self._saving is None:
            return True
        try:
            self._saving.result()
        except (OSError, InputError) as error:
            self.accelerator.print(
                f"could not save the checkpoint of step {self.saved_step}: {error}; the last good "
                "one stays, training continues"
            )
            return False
        finally:
            self._saving = None
        return True

    def _summed_usage(self) -> dict[str, Tensor]:
        return {
            prefix + name: value
            for prefix, usage in self._usages().items()
            for name, value in usage.over_ranks().tensors().items()
        }

    def _restore_usage(self, tensors: dict[str, Tensor]) -> None:
        """Restore the counts of all ranks on rank 0; the other ranks start from zero."""
        usages = self._usages()
        expected = {
            prefix + name: value
            for prefix, usage in usages.items()
            for name, value in usage.tensors().items()
        }
        check_tensors(expected, tensors, "usage")
        if self.accelerator.is_main_process:
            for prefix, usage in usages.items():
                usage.load({name: tensors[prefix + name] for name in usage.tensors()})

    def _usages(self) -> dict[str, CodeUsage]:
        if self.usage is None or self.epoch_usage is None:
            return {}
        return {"": self.usage, "epoch.": self.epoch_usage}

    def count_codes(self, epoch_ended: bool) -> dict[str, float]:
        """Return metrics of the code usage since the last call.

        All ranks must call this method.

        Args:
            epoch_ended: whether an epoch has ended, so that the usage over the epoch is included.
        """
        assert self.usage is not None
        assert self.epoch_usage is not None
        use = self.usage.compute()
        self.epoch_usage.merge(self.usage)
        self.usage.reset()
        figures = {
            "codebook/usage": use.code_usage,
            "codebook/batch_usage": use.batch_code_usage,
            "codebook/perplexity": use.perplexity,
        }
        for number, level in enumerate(use.levels):
            figures[f"codebook/level_{number}/usage"] = level.code_usage
            figures[f"codebook/level_{number}/perplexity"] = level.perplexity
            figures[f"codebook/level_{number}/entropy"] = level.entropy
        if epoch_ended:
            split = self.epoch_usage.compute()
            self.epoch_usage.reset()
            figures["codebook/split_usage"] = split.code_usage
            figures["codebook/split_perplexity"] = split.perplexity
        return figures

    def _gathered_random_state(self) -> dict[str, Tensor]:
        gathered: dict[str, Tensor] = {}
        for name, value in random_state().items():
            rows: Any = self.accelerator.gather(value.unsqueeze(0).to(self.accelerator.device))
            for rank, row in enumerate(rows.cpu()):
                gathered[f"{name}.{rank}"] = row
        return gathered

    def _restore_random_state(self, tensors: dict[str, Tensor], world_size: int) -> None:
        rank = self.accelerator.process_index
        devices = {"cpu"} | ({"cuda"} if "cuda.0" in tensors else set())
        if len(tensors) != world_size * len(devices):
            raise InputError(f"random: holds {len(tensors)} states of {world_size} ranks")
        own = {device: tensors[f"{device}.{rank % world_size}"] for device in devices}
        if rank < world_size:
            set_random_state(own)
        else:  # a rank that the interrupted run did not have
            torch.manual_seed(torch.initial_seed() + 1_000_003 * self.step)

    def resume(
        self, run_folder: RunFolder, optimizer: torch.optim.Optimizer, last_step: int
    ) -> bool:
        """Restore the newest intact checkpoint; return False if there are no checkpoints.

        Args:
            optimizer: model's optimizer, before `prepare`.

        Raises:
            InputError: no checkpoint is intact, or the newest intact checkpoint does not fit this
                run or is past the run's last step.
        """
        found = run_folder.checkpoints.newest()
        if found is None:
            run_folder.rewind_log(0)
            return False
        step, problems = found
        for problem in problems:
            self.accelerator.print(f"skipped a damaged checkpoint: {problem}")
        source = run_folder.checkpoints.folder(step)
        if step > last_step:
            raise InputError(
                f"{source}: the run has done {step} steps, more than optim.steps = {last_step}; "
                "set more steps, or name another --out for a new run"
            )
        try:
            tensors, described = run_folder.checkpoints.load(step)
            state = check_config(SavedState, described, "state.json")
            if state.step != step:
                raise InputError(f"state.json: belongs to step {state.step}")
            self._restore(state, tensors, optimizer)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{source}: does not fit this run: {error}\n"
                "Delete this folder to resume from the checkpoint before it, if there is one"
            ) from None
        run_folder.rewind_log(state.log_position)
        self.accelerator.print(f"resuming from {source}")
        return True

    def _restore(
        self, state: SavedState, tensors: Tensors, optimizer: torch.optim.Optimizer
    ) -> None:
        expected = {"model", "averages", "optimizer", "random", "usage"}
        if self.discriminator is not None:
            expected |= self.discriminator.tensors().keys()
        if odd := tensors.keys() ^ expected:
            raise InputError(
                f"unlike this run, has or lacks tensors of {', '.join(sorted(odd))}; only a new "
                "run, with init_from, can add or drop a discriminator"
            )
        for name in ("model", "averages"):
            check_tensors(self.model.state_dict(), tensors[name], name)
        if name := not_finite(tensors):
            raise InputError(f"{name}: is not finite")
        self.model.load_state_dict(tensors["model"])
        self.averages.load(tensors["averages"], state.average_updates)
        load_optimizer(optimizer, tensors["optimizer"])
        if self.discriminator is not None:
            self.discriminator.load(tensors)
        self.step = self.saved_step = state.step
        self._restore_random_state(tensors["random"], state.world_size)
        self._restore_usage(tensors["usage"])
        self.validation_is_due = state.validation_is_due
        self.health = state.health
        self.skipped_steps = state.skipped_steps
        self.bad_in_a_row = state.bad_in_a_row
        self.best = state.best
        if self.accelerator.scaler is not None and state.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.scaler)


def not_finite(tensors: Tensors) -> str | None:
    """Return the name of a tensor that contains NaN or infinity, or None if all are finite."""
    for file, values in tensors.items():
        for name, value in values.items():
            if not torch.isfinite(value).all():
                return f"{file}: {name}"
    return None
