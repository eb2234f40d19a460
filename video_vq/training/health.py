"""Warnings of a run that still counts but goes wrong: a loss that jumps, a codebook that collapses.

Looked at where numbers are logged, on numbers that are equal on all ranks; part of the checkpoint,
so that a resumed run warns like an uninterrupted one.
"""

import math
from typing import Any

FORGET = 0.9  # of the averages of the loss and its square, per logged step
MIN_LOGS = 10  # before them a mean says little, and a new codebook is still being filled
SPIKE_DEVIATIONS = 6.0
SPIKE_RATIO = 1.5
COLLAPSED = 0.05  # of the codes that the logged tokens could have used


class Health:
    """Counts what it warned of: `loss_spikes` and `collapses`."""

    def __init__(self) -> None:
        self.loss_spikes = 0
        self.collapses = 0
        self._logs = 0
        self._mean = 0.0
        self._square = 0.0
        self._is_collapsed = False

    def look(self, loss: float, usage: float | None = None, possible: float = 1.0) -> list[str]:
        """Return warnings, with what to try; one per spike, one per collapse.

        Args:
            loss: of the logged step, over all ranks.
            usage: fraction of the codes used since the last log; None for a prior.
            possible: the fraction that so many tokens would use if all codes were as likely.
        """
        warnings = []
        if self._spikes(loss):
            self.loss_spikes += 1
            warnings.append(
                f"the loss jumped to {loss:.4g}, from {self._mean:.4g} on average; if it does not "
                "come back: lower optim.lr, lengthen optim.warmup_steps, lower optim.clip_norm, or "
                "train with --mixed_precision no"
            )
        if math.isfinite(loss):
            self._follow(loss)
        if usage is not None and self._logs >= MIN_LOGS:
            collapsed = usage < COLLAPSED * possible
            if collapsed and not self._is_collapsed:
                self.collapses += 1
                warnings.append(
                    f"the codebook collapses: {usage:.2%} of the codes are in use; try a higher "
                    "model.quantizer.restart_threshold, learning: ema with init: data, a lower "
                    "optim.lr, or a smaller model.quantizer.codebook_dim"
                )
            self._is_collapsed = collapsed
        self._logs += 1
        return warnings

    def numbers(self) -> dict[str, int]:
        """Return the counts for the log."""
        return {"warnings/loss_spikes": self.loss_spikes, "warnings/collapses": self.collapses}

    def _spikes(self, loss: float) -> bool:
        if self._logs < MIN_LOGS or not math.isfinite(loss):
            return False
        deviation = math.sqrt(max(self._square - self._mean**2, 0.0))
        limit = max(self._mean + SPIKE_DEVIATIONS * deviation, SPIKE_RATIO * self._mean)
        return loss > limit

    def _follow(self, loss: float) -> None:
        # Like Adam's, averages of what there was: at the first log the loss itself.
        weight = (1 - FORGET) / (1 - FORGET ** (self._logs + 1))
        self._mean += weight * (loss - self._mean)
        self._square += weight * (loss**2 - self._square)

    def state(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {name.lstrip("_"): value for name, value in vars(self).items()}

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave.

        Raises:
            KeyError, TypeError: it is not that.
        """
        for name, value in vars(self).items():
            setattr(self, name, type(value)(state[name.lstrip("_")]))
