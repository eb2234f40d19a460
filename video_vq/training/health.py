"""Warnings about failures in which all numbers stay finite: loss spikes and codebook collapse.

The checks run at each logged step, on numbers that are identical on all ranks. The state of the
checks is part of the checkpoint, so a resumed run gives the same warnings as an uninterrupted run.
"""

import math
from collections.abc import Sequence

from pydantic import NonNegativeFloat, NonNegativeInt
from pydantic.dataclasses import dataclass

from video_vq.config import STRICT

FORGET = 0.9  # decay per logged step of the averages of the loss and its square
MIN_LOGS = 10  # with fewer, a mean says little and a new codebook is still being filled
SPIKE_DEVIATIONS = 6.0
SPIKE_RATIO = 1.5
COLLAPSED = 0.05  # share of the codes that the logged tokens could have used

RESTARTS = (
    "a higher model.quantizer.restart_threshold, learning: ema with init: data, a lower optim.lr, "
    "or a smaller model.quantizer.codebook_dim"
)
REMEDIES = {  # remedies for a collapse, by kind of quantizer
    "vector": RESTARTS,
    "residual": RESTARTS,
    "simvq": "a lower optim.lr, a smaller model.quantizer.codebook_dim, or kind: vector",
    "finite": "a lower optim.lr, fewer or smaller model.quantizer.levels, or activation: sigmoid",
    "binary": "a higher loss.entropy, a higher model.quantizer.diversity, a lower optim.lr, or "
    "fewer model.quantizer.num_bits",
}


@dataclass(config=STRICT)
class Health:
    """The number of warnings so far, and the state that later warnings depend on.

    Attributes:
        loss_spikes, collapses: number of warnings so far.
        logs: number of logged steps since the start or the last call of `forget`.
        mean, square: moving averages of the loss and of its square.
        is_collapsed: whether the codebook was collapsed at the last logged step.
    """

    loss_spikes: NonNegativeInt
    collapses: NonNegativeInt
    logs: NonNegativeInt
    mean: float
    square: NonNegativeFloat
    is_collapsed: bool

    @classmethod
    def at_start(cls) -> "Health":
        """Return the state at the start of a run."""
        return cls(0, 0, 0, 0.0, 0.0, False)

    def look(
        self,
        loss: float,
        usage: float | None = None,
        possible: float = 1.0,
        codes: str = "the codes",
        remedy: str = RESTARTS,
    ) -> list[str]:
        """Check a logged step; return a warning with a remedy for each new spike or collapse.

        Args:
            loss: loss of the logged step, averaged over all ranks.
            usage: fraction of the codes used since the last logged step; None for a prior.
            possible: expected fraction of the codes that the tokens since the last logged step
                would use if all codes were equally likely.
            codes: name of the codes in the warning, such as "the codes of level 0".
            remedy: suggested remedy for a collapse.
        """
        warnings = []
        if self._spikes(loss):
            self.loss_spikes += 1
            warnings.append(
                f"the loss jumped to {loss:.4g}, from {self.mean:.4g} on average; if it does not "
                "recover: lower optim.lr, lengthen optim.warmup_steps, lower optim.clip_norm, or "
                "train with --mixed_precision no"
            )
        if math.isfinite(loss):
            self._follow(loss)
        if usage is not None and self.logs >= MIN_LOGS:
            collapsed = usage < COLLAPSED * possible
            if collapsed and not self.is_collapsed:
                self.collapses += 1
                warnings.append(
                    f"the codebook collapses: {usage:.2%} of {codes} are in use; try {remedy}"
                )
            self.is_collapsed = collapsed
        self.logs += 1
        return warnings

    def forget(self) -> None:
        """Reset the averages before a different loss is used, but keep the counts of warnings."""
        self.logs = 0
        self.mean = self.square = 0.0

    def numbers(self) -> dict[str, int]:
        """Return the counts of warnings by metric name."""
        return {"warnings/loss_spikes": self.loss_spikes, "warnings/collapses": self.collapses}

    def _spikes(self, loss: float) -> bool:
        if self.logs < MIN_LOGS or not math.isfinite(loss):
            return False
        deviation = math.sqrt(max(self.square - self.mean**2, 0.0))
        return loss > max(self.mean + SPIKE_DEVIATIONS * deviation, SPIKE_RATIO * self.mean)

    def _follow(self, loss: float) -> None:
        # Bias-corrected as in Adam: at the first log, the average is the loss itself.
        weight = (1 - FORGET) / (1 - FORGET ** (self.logs + 1))
        self.mean += weight * (loss - self.mean)
        self.square += weight * (loss**2 - self.square)


def least_used(
    use: dict[str, float], vocabulary: Sequence[int], num_tokens: int
) -> tuple[float, float, str]:
    """Return the arguments `usage`, `possible` and `codes` for `Health.look`.

    If a position has several codes, the arguments describe the level whose usage is lowest relative
    to its possible usage.

    Args:
        use: codebook metrics since the last logged step, by metric name.
        vocabulary: number of codes at each level.
        num_tokens: number of positions that were counted.
    """
    possible = [1 - (1 - 1 / size) ** num_tokens for size in vocabulary]
    if len(vocabulary) == 1:
        return use["codebook/usage"], possible[0], "the codes"
    usage = [use[f"codebook/level_{level}/usage"] for level in range(len(vocabulary))]
    least = min(range(len(vocabulary)), key=lambda level: usage[level] / possible[level])
    return usage[least], possible[least], f"the codes of level {least}"
