"""What the arms of the comparison of quality per compute share: their output and how they train."""

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
WARMUP = SCHEDULE // 5  # long in budgets, as they are few steps: less throws models into a plateau
COMMITMENT, RECONSTRUCTION = 0.25, 4.0

Video = Float[Tensor, "b 3 t h w"]
Loss = Float[Tensor, ""]


class Reconstruction(NamedTuple):
    """What an arm makes of a video.

    Attributes:
        codes: None without a quantizer.
        commitment: unweighted; zero where our loss has none to weigh.
        losses: what else the quantizer of a baseline asks for, unweighted, by name.
    """

    video: Video
    codes: Int[Tensor, "b lt lh lw"] | None
    commitment: Loss
    losses: Mapping[str, Loss] = MappingProxyType({})


class Baseline(nn.Module):
    """An arm whose forward does all there is to do in a step.

    Attributes:
        outer_layers: its layers next to pixels or codes, which Muon leaves to AdamW.
    """

    outer_layers: re.Pattern[str] = OUTER_LAYERS

    def begin(self, video: Video) -> None:
        """Do nothing: the first codes are there, or the first forward draws them."""

    def end_step(self) -> None:
        """Do nothing: the optimizer or the forward moved the codes."""


class OurLoss(nn.Module):
    """Mean squared error of pixels in [-1, 1], and commitment."""

    def forward(self, output: Reconstruction, video: Video, done: float) -> Loss:
        """Return the loss; it is the same from the beginning of the training to its end."""
        reconstruction = reconstruction_loss(output.video, video, "mse")
        return RECONSTRUCTION * reconstruction + COMMITMENT * output.commitment


class Recipe(NamedTuple):
    """How an arm is trained.

    Attributes:
        loss: makes a module that is called with a reconstruction, the video and how much of the
            training is over, from 0 to 1. Its parameters, if it has any, are trained as well.
        optimizer: all but the rate, which the arm names.
    """

    loss: Callable[[], nn.Module]
    optimizer: OptimizerConfig


ADAMW = OptimizerConfig(kind="adamw", steps=SCHEDULE, warmup_steps=WARMUP)
OURS = Recipe(OurLoss, replace(ADAMW, kind="muon"))
