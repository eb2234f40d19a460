"""The training loop shared by all models; each model's own file contains the training step."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from video_vq.config import to_json
from video_vq.data.loader import ClipSequence, TokenSequence, training_batches
from video_vq.distributed import main_process_first
from video_vq.metrics.code_usage import CodeUsage
from video_vq.models.model_folder import Kind
from video_vq.models.pretrained import Pretrained
from video_vq.training.compiled import not_recompiled, uncompiled
from video_vq.training.discriminator import Discriminator
from video_vq.training.distributed import StopFlag, all_finite, clip_gradients
from video_vq.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from video_vq.training.progress_line import ProgressLine
from video_vq.training.run_folder import RunFolder, diverged
from video_vq.training.state import TrainingState
from video_vq.training.stop_request import StopRequest
from video_vq.training.timer import StepTimer
from video_vq.training.trackers import TrackerName
from video_vq.training.training_config import PriorTrainingConfig, TokenizerTrainingConfig

Turn = Literal["validate", "train"]


def open_run(
    accelerator: Accelerator,
    out: Path,
    kind: Kind,
    config: TokenizerTrainingConfig | PriorTrainingConfig,
    data: str,
    allowed_changes: Sequence[str],
) -> RunFolder:
    """Open a run folder on all ranks; rank 0 goes first and creates the folder. See `RunFolder`.

    Args:
        data: content hash of the training store.
        allowed_changes: settings that a resumed run may change.

    Raises:
        InputError: the folder cannot be used for this run; see `RunFolder`.
    """
    facts = {
        "data": data,
        "precision": accelerator.mixed_precision,
        "world_size": accelerator.num_processes,
        "threads": torch.get_num_threads() if accelerator.device.type == "cpu" else None,
    }
    with main_process_first(accelerator):
        return RunFolder(
            out, kind, to_json(config), facts, accelerator.is_main_process, allowed_changes
        )


class Training:
    """One start of a run: from the newest checkpoint to the last step or a stop request.

    This class manages everything that all training runs share: the optimizer, averaged weights,
    checkpoints, the log, the schedule for validating and saving, stop requests, and the joint
    decision of all ranks to take or skip a step. The model's own file computes the loss of a batch
    (`train_tokenizer`, `train_prior`):

        training = Training(accelerator, run_folder, config, model, "clips", trackers, request)
        batches = training.batches(dataset)
        for turn in training.turns():
            if turn == "validate":
                training.note_validation(...)
                continue
            ...                             # forward, training.backward(loss): the model's own
            if training.update(loss):       # clip, step; False if the step was skipped
                training.state.averages.update(model)
            if training.log_is_due:
                training.log({...}, warnings)
        return training.export(facts) if training.is_finished else None

    Between two turns, all ranks have completed the same steps. Tests observe a run at these points,
    by wrapping `batches` to record a rank's inputs and `turns` to record the rank's state
    (tests/integration/observed.py).

    Args:
        model: model with its initial weights; moved to the device.
        unit: plural noun for the items of a batch, used in messages.
        trackers: experiment trackers to log to, besides metrics.jsonl.
        request: stop request; with None, only a file named `stop` in the run folder stops the run.
        usage: code usage of a tokenizer since the last logged step; None for a prior.

    Attributes:
        model: model for forward passes in training, wrapped by DDP if there are several ranks.
        bare_model: same model, not wrapped.
        state: contents of a checkpoint: number of steps done, averages and counters.
        micro_batch_size: number of items per forward pass on one rank.
        timer: timer for the phases of a step; `with training.timer("forward"): …`.
        stop: flag for stop requests, which a validation pass checks before each batch.
        log_is_due: whether the current step is logged.
        lr: learning rate of the current step.
        grad_norm: gradient norm of the last step, before clipping.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        run_folder: RunFolder,
        config: TokenizerTrainingConfig | PriorTrainingConfig,
        model: Pretrained,
        unit: str,
        trackers: Sequence[TrackerName] = (),
        request: StopRequest | None = None,
        usage: CodeUsage | None = None,
        discriminator: Discriminator | None = None,
    ):
        self.accelerator, self.run_folder = accelerator, run_folder
        self.optim, self.rhythm = config.optim, config.run
        micro_batches = self.optim.accumulation * accelerator.num_processes
        self.micro_batch_size = self.optim.batch_size // micro_batches
        self.bare_model = model.to(accelerator.device)
        optimizer = make_optimizer(model, self.optim)
        self.state = TrainingState(accelerator, model, self.rhythm, usage, discriminator)
        torch.manual_seed(self.rhythm.seed + 1 + accelerator.process_index)
        self.state.resume(run_folder, optimizer, self.optim.steps)
        run_folder.track(trackers, self.state.step)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        if discriminator is not None:
            discriminator.prepare()
        self.timer = StepTimer()
        self._unit = unit
        self._progress = ProgressLine(
            *("step", self.optim.steps, self.state.step),
            rate=unit,
            per_part=self.optim.batch_size,
            is_shown=accelerator.is_main_process,
        )
        self.stop = StopFlag(accelerator, run_folder.path, request)
        self.log_is_due = False
        self.lr = 0.0
        self.grad_norm = torch.zeros(())

    def batches(self, dataset: ClipSequence | TokenSequence) -> Iterator[Any]:
        """Return this rank's micro-batches for all remaining steps, in order."""
        loader = training_batches(
            dataset,
            first_step=self.state.step,
            last_step=self.optim.steps,
            rank=self.accelerator.process_index,
            batch_size=self.optim.batch_size,
            accumulation=self.optim.accumulation,
            world_size=self.accelerator.num_processes,
            num_workers=self.rhythm.num_workers,
        )
        return iter(loader)

    def turns(self) -> Iterator[Turn]:
        """Yield the next task until the last step is done or the run has to stop.

        At "validate", the caller scores the averaged weights and passes the scores to
        `note_validation`. At "train", the caller computes the losses of one optimizer step and
        calls `update`. Checkpoints are written in between.
        """
        state, last_step = self.state, self.optim.steps
        if state.step < last_step:  # otherwise only a validation pass or the export is left
            self.accelerator.print(
                f"training steps {state.step + 1} to {last_step}, {self.optim.batch_size} "
                f"{self._unit} each; a line every {self.rhythm.log_every} steps"
            )
        self.timer.restart()
        self._progress.restart(state.step)
        is_first = True
        while True:
            if state.validation_is_due:
                with uncompiled(self.rhythm.compile):
                    yield "validate"
                self._leave_out_of_rates()
            is_last, stopping = state.step == last_step, self.stop.is_set()
            if state.save_is_due(self.rhythm.checkpoint_every, is_last or stopping):
                state.save(self.run_folder, self.optimizer)
                self._leave_out_of_rates()
            if stopping and not self.is_finished:
                self.run_folder.close()
                self.stop.clear(state.step, last_step, state.wait_for_save())
                return
            if is_last:
                state.wait_for_save()
                return
            self.model.train()
            self.lr = learning_rate(self.optim, state.step)
            set_learning_rate(self.optimizer, self.lr)
            self.log_is_due = (state.step + 1) % self.rhythm.log_every == 0
            with not_recompiled(self.rhythm.compile):
                yield "train"
            if not self.log_is_due:  # otherwise the step has just been logged
                self._progress.look(state.step, at_once=is_first)
            is_first = False

    @property
    def is_finished(self) -> bool:
        """Return whether all steps are done and the final weights have been validated."""
        return self.state.step == self.optim.steps and not self.state.validation_is_due

    def _leave_out_of_rates(self) -> None:
        """Exclude the time since the last step, which belongs to no step, from the rates."""
        self.timer.restart()
        self._progress.leave_out()

    def summing(self, is_last: bool) -> AbstractContextManager[Any]:
        """Return a context for one micro-batch, whose gradients are added to earlier gradients.

        Args:
            is_last: whether this is the last micro-batch of the step, whose backward pass averages
                the gradients over the ranks.
        """
        return nullcontext() if is_last else self.accelerator.no_sync(self.model)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one micro-batch's loss, divided by `accumulation`.

        Args:
            loss: mean loss of the micro-batch on this rank.
        """
        self.accelerator.backward(loss / self.optim.accumulation)

    def update(self, must_be_finite: Tensor, discriminator: Discriminator | None = None) -> bool:
        """Take an optimizer step, or skip the step on all ranks.

        All ranks must call this method.

        Args:
            must_be_finite: unweighted losses of the step on this rank; the step is skipped unless
                these losses and the gradient norms are finite on every rank.
            discriminator: discriminator to step or skip together with the model; None if no
                discriminator takes part in the step.

        Returns:
            Whether the step was taken.

        Raises:
            InputError: too many consecutive steps were skipped.
        """
        state = self.state
        with self.timer("step"):
            self.grad_norm = clip_gradients(self.accelerator, self.model, self.optim.clip_norm)
            norms = [self.grad_norm]
            if discriminator is not None:
                norms.append(discriminator.clip())
            healthy = all_finite(self.accelerator, must_be_finite, *norms)
            if healthy or self.accelerator.scaler is not None:  # fp16's scaler skips by itself
                self.optimizer.step()
            self.optimizer.zero_grad()
            if discriminator is not None:
                discriminator.step(healthy, self.lr)
        self.timer.end_step()
        state.end_step(healthy, self.rhythm, self.optim.steps)
        if state.bad_in_a_row >= self.optim.max_bad_steps:
            state.wait_for_save()
            raise diverged(self.run_folder, state.step, state.bad_in_a_row)
        return healthy

    def log(self, figures: dict[str, Any], warnings: Sequence[str]) -> None:
        """Log the current step, with the metrics of the model, the optimizer and the timer.

        Args:
            figures: values by metric name (`loss/…`), identical on all ranks.
            warnings: sentences to show on stderr.
        """
        with self.timer("logging"):  # .item() waits for a GPU
            line = {
                **figures,
                "optim/grad_norm": self.grad_norm.item(),
                "optim/lr": self.lr,
                "optim/skipped_steps": self.state.skipped_steps,
            }
        line |= self.timer.numbers(self.optim.batch_size, self.optim.steps - self.state.step)
        with self.timer(
            "logging"
        ):  # a line cannot include the time of writing it: the next one does
            self.run_folder.log(self.state.step, line, warnings)
        self._progress.restart(self.state.step)

    def note_validation(self, figures: dict[str, float], value: float) -> None:
        """Log the scores of a validation pass, and record whether the weights are the best so far.

        Args:
            figures: values by metric name (`validation/…`).
            value: number by which checkpoints are compared; lower is better.
        """
        self.state.note_validation(value)
        self.run_folder.log(self.state.step, figures)
        self._progress.restart(self.state.step)

    def export(self, facts: Any) -> Path:
        """Write the averaged weights as a finished model and close the run; return the folder.

        Args:
            facts: details of the training to record in the finished model.

        Raises:
            InputError: the model cannot be written.
        """
        folder = self.run_folder.path / self.bare_model.kind
        if self.accelerator.is_main_process:
            self.bare_model.load_state_dict(self.state.averages.tensors)
            self.bare_model.facts = facts
            with self.run_folder.exporting(folder):
                self.bare_model.save_pretrained(folder)
        self.run_folder.close()
        self.stop.remove_file()  # a stop file created this late would stop the next start
        self.accelerator.wait_for_everyone()
        return folder
