"""The training recipes of the arms of quality.py, and the output that all arms share."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from video_vq.training.losses import reconstruction_loss
from video_vq.training.optimizer import OUTER_LAYERS
from video_vq.training.training_config import OptimizerConfig

SCHEDULE = 1000  # the whole budget in the schedule's steps
WARMUP = SCHEDULE // 5  # a long share, as budgets have few steps: less leaves AdamW on a plateau
RECONSTRUCTION = 4.0

Video = Float[Tensor, "b 3 t h w"]
Loss = Float[Tensor, ""]


class Reconstruction(NamedTuple):
    """The output of an arm for a video.

    Attributes:
        codes: the codes; None without a quantizer.
        commitment: the unweighted commitment loss for `OurLoss`; zero if there is none.
        losses: unweighted losses of a quantizer for the baseline's own loss, by name.
    """

    video: Video
    codes: Int[Tensor, "b lt lh lw"] | None
    commitment: Loss
    losses: Mapping[str, Loss] = MappingProxyType({})


class Baseline(nn.Module):
    """A model whose codes need no work outside the forward pass and the optimizer.

    Attributes:
        outer_layers: pattern that matches the names of layers next to pixels or codes, which Muon
            leaves to AdamW.
    """

    outer_layers: re.Pattern[str] = OUTER_LAYERS

    def begin(self, video: Video) -> None:
        """Do nothing, since the first codes exist already, or the first forward pass draws them."""

    def end_step(self) -> None:
        """Do nothing, since the optimizer or the forward pass has updated the codes."""


class OurLoss(nn.Module):
    """Mean squared error of pixels in [-1, 1], and commitment.

    Args:
        commitment: weight of the commitment loss.
    """

    def __init__(self, commitment: float = 1.0):
        super().__init__()
        self.commitment = commitment

    def forward(self, output: Reconstruction, video: Video, done: float) -> Loss:
        """Return the loss, which does not depend on the progress of training, `done`."""
        reconstruction = reconstruction_loss(output.video, video, "mse")
        return RECONSTRUCTION * reconstruction + self.commitment * output.commitment


class Recipe(NamedTuple):
    """The training recipe of an arm.

    Attributes:
        loss: function that returns a new loss module, which is called with a reconstruction, the
            video and the progress of training, from 0 to 1. Its parameters, if any, are trained.
        optimizer: settings of the optimizer except for the learning rate, which the arm defines.
    """

    loss: Callable[[], nn.Module]
    optimizer: OptimizerConfig


ADAMW = OptimizerConfig(kind="adamw", steps=SCHEDULE, warmup_steps=WARMUP)
# As in the demo: Muon starts well after a short warm-up, and the rate falls only at the end.
MUON = replace(ADAMW, kind="muon", warmup_steps=SCHEDULE // 20, decay_steps=SCHEDULE // 4)
OURS = Recipe(OurLoss, MUON)
