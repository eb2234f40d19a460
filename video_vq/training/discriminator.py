"""The discriminator used in tokenizer training: losses, optimizer and checkpoint tensors."""

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

ANCHOR_DECAY = 0.99  # decay of the LeCam anchors per step, warmed up like the codebook's decay


def check_adversarial(config: AdversarialConfig, precision: str, size_hw: tuple[int, int]) -> None:
    """Raise if the adversarial loss does not support the frame size or the precision.

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
    """Metrics of the discriminator, averaged over one micro-batch or one step."""

    loss: Tensor
    lecam: Tensor
    accuracy: Tensor
    real_logit: Tensor
    fake_logit: Tensor


class Discriminator:
    """Discriminator of reconstructions and real clips, trained with hinge and LeCam losses.

    The tokenizer's adversarial loss has a fixed weight: the adaptive weight of VQGAN needs the last
    layer's gradients inside the forward pass, which DDP does not support, and is as noisy as these
    gradients. With several ranks, the discriminator is a separate DDP module with one forward and
    one backward call per micro-batch. The tokenizer's loss treats the discriminator's weights as
    constants, so the weights get no gradients from that loss. Every parameter of both networks is
    used in every step, as DDP requires.

    Args:
        optim: settings of the tokenizer's optimizer; the discriminator's learning rate follows the
            tokenizer's.
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
        """Prepare network and optimizer with Accelerate, after a checkpoint has been restored."""
        self._wrapped, self.optimizer = self.accelerator.prepare(self.network, self.optimizer)

    def fooling_loss(self, reconstruction: Video) -> Float[Tensor, ""]:
        """Return the tokenizer's loss, -mean D(reconstruction) (Lim and Ye 2017, eq. 6)."""
        constants = dict(self.network.state_dict())  # detached
        with self.accelerator.autocast():
            logits = functional_call(self.network, constants, (reconstruction,))
        return -logits.float().mean()

    def learn(self, video: Video, reconstruction: Video, accumulation: int, is_last: bool) -> None:
        """Add the discriminator gradients of one micro-batch.

        Args:
            video: real clips.
            reconstruction: reconstructions of these clips; they receive no gradient.
            is_last: whether this is the last micro-batch of the step, in which gradients are
                averaged over the ranks.
        """
        both = torch.cat([video, reconstruction.detach()])
        alone = nullcontext() if is_last else self.accelerator.no_sync(self._wrapped)
        with alone:
            with self.accelerator.autocast():
                real, fake = self._wrapped(both).float().chunk(2)
            hinge = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
            # Tseng et al. 2021, eq. 4: real logits are drawn to the fake average, and vice versa.
            to_fake, to_real = (real - self.anchors[1]).square(), (fake - self.anchors[0]).square()
            lecam = to_fake.mean() + to_real.mean()
            self.accelerator.backward((hinge + self.config.lecam * lecam) / accumulation)
        accuracy = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        parts = (hinge, lecam, accuracy, real.mean(), fake.mean())
        self._parts.append(DiscriminatorFigures(*(part.detach() for part in parts)))

    def clip(self) -> Float[Tensor, ""]:
        """Clip the gradient norm to optim.clip_norm; return the norm before clipping."""
        self._norm = clip_gradients(self.accelerator, self._wrapped, self.optim.clip_norm)
        return self._norm

    @torch.no_grad()
    def step(self, healthy: bool, lr: float) -> None:
        """Take an optimizer step, or skip the step on all ranks.

        All ranks must call this method.

        Args:
            healthy: whether all losses and gradients of the tokenizer and the discriminator were
                finite.
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
        """Return the metrics `discriminator/…` of the last step taken, averaged over all ranks.

        The result is empty before the first step of the discriminator.
        """
        if self._figures is None:
            return {}
        numbers = {
            f"discriminator/{name}": float(value) for name, value in self._figures._asdict().items()
        }
        return {**numbers, "discriminator/grad_norm": float(self._norm)}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the discriminator's tensors for a checkpoint, by file name and tensor name."""
        return {
            "discriminator": {
                **self.network.state_dict(),
                "lecam.anchors": self.anchors,
                "lecam.num_updates": self.num_updates,
            },
            "discriminator_optimizer": optimizer_tensors(self.optimizer),
        }

    def load(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        """Restore the discriminator from a checkpoint; call this before `prepare`.

        Args:
            tensors: tensors by file name and tensor name, as returned by `tensors`.

        Raises:
            InputError: the tensors are not those of this discriminator.
        """
        found = dict(tensors["discriminator"])
        check_tensors(self.tensors()["discriminator"], found, "discriminator")
        self.anchors.copy_(found.pop("lecam.anchors"))
        self.num_updates.copy_(found.pop("lecam.num_updates"))
        self.network.load_state_dict(found)
        load_optimizer(self.optimizer, tensors["discriminator_optimizer"])
