"""Warnings of a run that still counts but goes wrong: a loss that jumps, a codebook that collapses.

Looked at where numbers are logged, on numbers that are equal on all ranks; part of the checkpoint,
so that a resumed run warns like an uninterrupted one.
"""

import math

from pydantic import NonNegativeFloat, NonNegativeInt
from pydantic.dataclasses import dataclass

from video_vq.config import STRICT

FORGET = 0.9  # of the averages of the loss and its square, per logged step
MIN_LOGS = 10  # before them a mean says little, and a new codebook is still being filled
SPIKE_DEVIATIONS = 6.0
SPIKE_RATIO = 1.5
COLLAPSED = 0.05  # of the codes that the logged tokens could have used


@dataclass(config=STRICT)
class Health:
    """What was warned of, and what the next warning depends on.

    Attributes:
        loss_spikes, collapses: warnings so far.
        logs: logged steps.
        mean, square: averages of the loss and of its square.
        is_collapsed: whether the codebook was at the last logged step.
    """

    loss_spikes: NonNegativeInt
    collapses: NonNegativeInt
    logs: NonNegativeInt
    mean: float
    square: NonNegativeFloat
    is_collapsed: bool

    @classmethod
    def at_start(cls) -> "Health":
        """Return the health of a run that has logged nothing."""
        return cls(0, 0, 0, 0.0, 0.0, False)

    def look(self, loss: float, usage: float | None = None, possible: float = 1.0) -> list[str]:
        """Return warnings, with what to try; one per spike, one per collapse.

        Args:
            loss: loss of the logged step, mean over all ranks.
            usage: fraction of the codes used since the last log; None for a prior.
            possible: the fraction that so many tokens would use if all codes were as likely.
        """
        warnings = []
        if self._spikes(loss):
            self.loss_spikes += 1
            warnings.append(
                f"the loss jumped to {loss:.4g}, from {self.mean:.4g} on average; if it does not "
                "come back: lower optim.lr, lengthen optim.warmup_steps, lower optim.clip_norm, or "
                "train with --mixed_precision no"
            )
        if math.isfinite(loss):
            self._follow(loss)
        if usage is not None and self.logs >= MIN_LOGS:
            collapsed = usage < COLLAPSED * possible
            if collapsed and not self.is_collapsed:
                self.collapses += 1
                warnings.append(
                    f"the codebook collapses: {usage:.2%} of the codes are in use; try a higher "
                    "model.quantizer.restart_threshold, learning: ema with init: data, a lower "
                    "optim.lr, or a smaller model.quantizer.codebook_dim"
                )
            self.is_collapsed = collapsed
        self.logs += 1
        return warnings

    def forget(self) -> None:
        """Forget the losses so far, as others come now; the counts of warnings stay."""
        self.logs = 0
        self.mean = self.square = 0.0

    def numbers(self) -> dict[str, int]:
        """Return the counts for the log."""
        return {"warnings/loss_spikes": self.loss_spikes, "warnings/collapses": self.collapses}

    def _spikes(self, loss: float) -> bool:
        if self.logs < MIN_LOGS or not math.isfinite(loss):
            return False
        deviation = math.sqrt(max(self.square - self.mean**2, 0.0))
        limit = max(self.mean + SPIKE_DEVIATIONS * deviation, SPIKE_RATIO * self.mean)
        return loss > limit

    def _follow(self, loss: float) -> None:
        # Like Adam's, averages of what there was: at the first log the loss itself.
        weight = (1 - FORGET) / (1 - FORGET ** (self.logs + 1))
        self.mean += weight * (loss - self.mean)
        self.square += weight * (loss**2 - self.square)
