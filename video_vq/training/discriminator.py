"""The discriminator of a tokenizer's training: its losses, optimizer and part of a checkpoint."""

import dataclasses
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from video_vq.distributed import over_ranks
from video_vq.errors import InputError
from video_vq.models.discriminator import PatchDiscriminator
from video_vq.models.pretrained import check_tensors
from video_vq.training.distributed import clip_gradients
from video_vq.training.optimizer import (
    load_optimizer,
    make_optimizer,
    optimizer_tensors,
    set_learning_rate,
)
from video_vq.training.training_config import AdversarialConfig, OptimizerConfig

Video = Float[Tensor, "b 3 t h w"]

ANCHOR_DECAY = 0.99  # decay of LeCam's averages per step, with the codebook's warm-up


def check_adversarial(config: AdversarialConfig, precision: str, size_hw: tuple[int, int]) -> None:
    """Raise if the adversarial loss cannot train on these clips.

    Args:
        precision: Accelerate's mixed precision: "no", "bf16", "fp16", ….

    Raises:
        InputError: the frames are too small, or the precision is fp16.
    """
    if not config.weight:
        return
    least = 2**config.levels
    if min(size_hw) < least:
        raise InputError(
            f"a discriminator of {config.levels} levels needs frames of at least {least} x {least} "
            f"pixels, found {size_hw[0]} x {size_hw[1]}; lower loss.adversarial.levels"
        )
    if precision == "fp16":
        raise InputError(
            "the adversarial loss does not train in fp16, whose one loss scale would serve two "
            "optimizers; start with --mixed_precision bf16 or no"
        )


class DiscriminatorFigures(NamedTuple):
    """Means over one step; the anchors of LeCam follow the means of the logits."""

    loss: Tensor
    lecam: Tensor
    accuracy: Tensor
    real_logit: Tensor
    fake_logit: Tensor


class Discriminator:
    """A network that learns to distinguish clips from reconstructions: hinge losses and LeCam.

    The weight of the tokenizer's loss is fixed: the adaptive weight of VQGAN needs the gradients of
    the last layer inside the forward pass, which DDP does not support, and it follows their noise.
    With several ranks, the discriminator is a separate DDP module with one forward and one backward
    call. The tokenizer's loss treats its weights as constants, so that no gradients remain in them,
    and every parameter of both is always used.

    Args:
        optim: settings of the tokenizer's optimizer, whose rates the discriminator's follow.
    """

    def __init__(self, accelerator: Accelerator, config: AdversarialConfig, optim: OptimizerConfig):
        self.accelerator, self.config, self.optim = accelerator, config, optim
        self.network = PatchDiscriminator(config.channels, config.levels)
        self.network.to(accelerator.device)
        self.optimizer: Any = make_optimizer(
            self.network, dataclasses.replace(optim, kind="adamw", betas=config.betas)
        )
        self.anchors = torch.zeros(2, device=accelerator.device)  # averaged logits: real, fake
        self.num_updates = torch.zeros((), dtype=torch.int64)
        self._wrapped: torch.nn.Module = self.network
        self._parts: list[DiscriminatorFigures] = []
        self._figures: DiscriminatorFigures | None = None
        self._norm = torch.zeros(())

    def prepare(self) -> None:
        """Hand discriminator and optimizer to Accelerate, after a checkpoint was restored."""
        self._wrapped, self.optimizer = self.accelerator.prepare(self.network, self.optimizer)

    def fooling_loss(self, reconstruction: Video) -> Float[Tensor, ""]:
        """Return the tokenizer's loss, -mean D(reconstruction) (Lim and Ye 2017, eq. 6)."""
        constants = dict(self.network.state_dict())  # detached
        with self.accelerator.autocast():
            logits = functional_call(self.network, constants, (reconstruction,))
        return -logits.float().mean()

    def learn(self, video: Video, reconstruction: Video, accumulation: int, is_last: bool) -> None:
        """Add the gradients of one micro-batch to the discriminator's.

        Args:
            video: real clips.
            reconstruction: reconstructions of these clips, which get no gradient.
            is_last: whether this is the step's last micro-batch, in which the ranks' gradients are
                averaged.
        """
        both = torch.cat([video, reconstruction.detach()])
        alone = nullcontext() if is_last else self.accelerator.no_sync(self._wrapped)
        with alone:
            with self.accelerator.autocast():
                real, fake = self._wrapped(both).float().chunk(2)
            hinge = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
            # Tseng et al. 2021, eq. 4: each side is drawn to the other side's average.
            to_fake, to_real = (real - self.anchors[1]).square(), (fake - self.anchors[0]).square()
            lecam = to_fake.mean() + to_real.mean()
            self.accelerator.backward((hinge + self.config.lecam * lecam) / accumulation)
        accuracy = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        parts = (hinge, lecam, accuracy, real.mean(), fake.mean())
        self._parts.append(DiscriminatorFigures(*(part.detach() for part in parts)))

    def clip(self) -> Float[Tensor, ""]:
        """Scale the step's gradients down to optim.clip_norm; return their original norm."""
        self._norm = clip_gradients(self.accelerator, self._wrapped, self.optim.clip_norm)
        return self._norm

    @torch.no_grad()
    def step(self, healthy: bool, lr: float) -> None:
        """Make the step, or skip it on all ranks; collective.

        Args:
            healthy: whether all losses and gradients of both sides were finite.
            lr: the tokenizer's learning rate at this step.
        """
        parts, self._parts = self._parts, []
        if healthy:
            means = torch.stack([torch.stack(values).mean() for values in zip(*parts, strict=True)])
            figures = DiscriminatorFigures(*over_ranks(self.accelerator, means, "mean"))
            set_learning_rate(self.optimizer, lr * self.config.lr_ratio)
            self.optimizer.step()
            updates = int(self.num_updates)
            decay = min(ANCHOR_DECAY, (1 + updates) / (10 + updates))
            self.anchors.lerp_(torch.stack([figures.real_logit, figures.fake_logit]), 1 - decay)
            self.num_updates += 1
            self._figures = figures
        self.optimizer.zero_grad()

    def numbers(self) -> dict[str, float]:
        """Return the figures `discriminator/…` of the last step made, as means over all ranks."""
        if self._figures is None:
            return {}
        numbers = {
            f"discriminator/{name}": float(value) for name, value in self._figures._asdict().items()
        }
        return {**numbers, "discriminator/grad_norm": float(self._norm)}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the discriminator's tensors in a checkpoint: file name -> name -> tensor."""
        return {
            "discriminator": {
                **self.network.state_dict(),
                "lecam.anchors": self.anchors,
                "lecam.num_updates": self.num_updates,
            },
            "discriminator_optimizer": optimizer_tensors(self.optimizer),
        }

    def load(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        """Restore the state from a checkpoint; call it before `prepare`.

        Args:
            tensors: the result of `tensors`: file name -> name -> tensor.

        Raises:
            InputError: the tensors are not those of this discriminator.
        """
        found = dict(tensors["discriminator"])
        check_tensors(self.tensors()["discriminator"], found, "discriminator")
        self.anchors.copy_(found.pop("lecam.anchors"))
        self.num_updates.copy_(found.pop("lecam.num_updates"))
        self.network.load_state_dict(found)
        load_optimizer(self.optimizer, tensors["discriminator_optimizer"])
