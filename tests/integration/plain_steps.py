"""A plain reference implementation of both trainings, with any number of ranks in one process.

The results of `train_tokenizer` and `train_prior` must equal its results bit for bit. The ranks are
simulated one after another with the same weights; their gradients are averaged as in DDP.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from video_vq.data.loader import ClipSequence, TokenSequence, training_batches
from video_vq.models.discriminator import PatchDiscriminator
from video_vq.models.prior import Prior, prior_loss
from video_vq.models.prior_config import config_for
from video_vq.models.tokenizer import VideoTokenizer, to_pixels
from video_vq.quantizers.codebook import merge
from video_vq.quantizers.rows import CodebookStatistics
from video_vq.stores.clips import ClipStore
from video_vq.stores.tokens import TokenStore
from video_vq.training.optimizer import learning_rate
from video_vq.training.training_config import (
    OptimizerConfig,
    PriorTrainingConfig,
    TokenizerTrainingConfig,
)

CPU = torch.device("cpu")


class Plain(NamedTuple):
    """The expected results of a run: tensors by checkpoint file, and losses by step."""

    tensors: dict[str, dict[str, Tensor]]
    losses: dict[int, dict[str, float]]


class Ranks:
    """The random states and batches of all ranks."""

    def __init__(self, config: Any, dataset: Any, world: int):
        self.states: list[Tensor] = []
        self.batches = []
        optim = config.optim
        for rank in range(world):
            torch.manual_seed(config.run.seed + 1 + rank)
            loader = training_batches(
                dataset,
                first_step=0,
                last_step=optim.steps,
                rank=rank,
                num_workers=0,
                batch_size=optim.batch_size,
                accumulation=optim.accumulation,
                world_size=world,
            )
            self.batches.append(iter(loader))
            self.states.append(torch.get_rng_state())

    def tensors(self) -> dict[str, Tensor]:
        return {f"cpu.{rank}": state for rank, state in enumerate(self.states)}


def adamw(module: nn.Module, config: OptimizerConfig, betas: tuple[float, float]) -> Any:
    """Return an AdamW optimizer that decays matrices and kernels, but not embeddings."""
    named = list(module.named_parameters())
    decayed = [value for name, value in named if value.ndim >= 2 and "embedding" not in name]
    kept = [value for name, value in named if value.ndim < 2 or "embedding" in name]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps)


def update(optimizer: Any, module: nn.Module, of_ranks: list[Any], clip: float, lr: float) -> None:
    """Take a step with the mean of the ranks' gradients, clipped to norm `clip`."""
    for value, *gradients in zip(module.parameters(), *of_ranks, strict=True):
        value.grad = sum(gradient / len(gradients) for gradient in gradients)
    nn.utils.clip_grad_norm_(module.parameters(), clip)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()


def taken_gradients(module: nn.Module) -> list[Tensor | None]:
    """Return a rank's gradients and clear them for the next rank."""
    gradients = [value.grad for value in module.parameters()]
    module.zero_grad()
    return gradients


def follow(averages: dict[str, Tensor], module: nn.Module, step: int, decay: float) -> None:
    """Update the averaged weights, with a decay that warms up."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in module.state_dict().items():
        if value.dtype.is_floating_point:
            averages[name].lerp_(value, 1 - decay)
        else:
            averages[name].copy_(value)


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}


def optimizer_state(optimizer: Any) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": value for index, values in state.items() for key, value in values.items()
    }


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum(0) / len(values)


def tokenizer_steps(config: TokenizerTrainingConfig, store: ClipStore, world: int) -> Plain:
    """Train a tokenizer with L2, commitment and adversarial losses; also record codebook losses."""
    optim, seed, loss, adversarial = (
        *(config.optim, config.run.seed),
        *(config.loss, config.loss.adversarial),
    )
    torch.manual_seed(seed)
    tokenizer = VideoTokenizer(config.model)
    discriminator = PatchDiscriminator(adversarial.channels, adversarial.levels)
    optimizer = adamw(tokenizer, optim, optim.betas)
    its_optimizer = adamw(discriminator, optim, adversarial.betas)
    averages = copied(tokenizer.state_dict())
    anchors, anchor_updates = torch.zeros(2), 0
    codebook = tokenizer.quantizer.codebook
    ranks = Ranks(config, ClipSequence(store, "train", config.data, seed), world)
    losses: dict[int, dict[str, float]] = {}

    for step in range(optim.steps):
        lr = learning_rate(optim, step)
        clips = [
            [to_pixels(next(batches).clips) for _ in range(optim.accumulation)]
            for batches in ranks.batches
        ]
        if not codebook.is_initialized:
            with torch.no_grad():  # of the global batch: by micro-batch, then by rank
                latents = [
                    tokenizer.latents(clip) for part in zip(*clips, strict=True) for clip in part
                ]
            codebook.initialize(tuple(latents), seed)
        plays = step >= adversarial.start
        grown = min(1.0, (step + 1 - adversarial.start) / max(1, adversarial.warmup_steps))
        gradients, its_gradients, statistics, means, figures = [], [], [], [], []
        for rank in range(world):
            of_rank: list[CodebookStatistics] = []
            parts: dict[str, Tensor] = {}
            its_parts: list[Tensor] = []
            for video in clips[rank]:
                output = tokenizer(video)
                found = {
                    "reconstruction": F.mse_loss(output.video, video),
                    "commitment": output.quantized.losses["commitment"],
                    "codebook": output.quantized.losses["codebook"],
                }
                total = loss.reconstruction_weight * found["reconstruction"]
                total = total + loss.commitment * found["commitment"]
                if plays:
                    constants = copied(discriminator.state_dict())
                    found["adversarial"] = -functional_call(
                        discriminator, constants, output.video
                    ).mean()
                    total = total + adversarial.weight * grown * found["adversarial"]
                (total / optim.accumulation).backward()
                if plays:
                    both = torch.cat([video, output.video.detach()])
                    real, fake = discriminator(both).chunk(2)
                    hinge = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
                    lecam = (real - anchors[1]).square().mean() + (
                        fake - anchors[0]
                    ).square().mean()
                    ((hinge + adversarial.lecam * lecam) / optim.accumulation).backward()
                    its_parts.append(torch.stack([real.mean(), fake.mean()]).detach())
                of_rank.append(output.quantized.statistics)
                for name, value in found.items():
                    parts[name] = parts.get(name, 0) + value.detach() / optim.accumulation
            gradients.append(taken_gradients(tokenizer))
            its_gradients.append(taken_gradients(discriminator))
            statistics.append(of_rank)
            means.append(parts)
            figures.append(torch.stack(its_parts).mean(0) if plays else None)

        update(optimizer, tokenizer, gradients, optim.clip_norm, lr)
        if plays:
            update(its_optimizer, discriminator, its_gradients, optim.clip_norm, lr)
            decay = min(0.99, (1 + anchor_updates) / (10 + anchor_updates))
            anchors.lerp_(mean(figures), 1 - decay)
            anchor_updates += 1
        merged = [merge(of_rank) for of_rank in statistics]
        by_position = [one for part in zip(*statistics, strict=True) for one in part]
        everything = CodebookStatistics(
            counts=torch.stack([part.counts for part in merged]).sum(0),
            sums=torch.stack([part.sums for part in merged]).sum(0),
            latents=tuple(latents for one in by_position for latents in one.latents),
        )
        restarted = codebook.update(everything, seed).restarted
        follow(averages, tokenizer, step, config.run.average_decay)
        codes = "quantizer.codebook.codes"
        averages[codes][restarted] = tokenizer.state_dict()[codes][restarted]
        losses[step + 1] = {name: float(mean([part[name] for part in means])) for name in means[0]}

    lecam = {"lecam.anchors": anchors, "lecam.num_updates": torch.tensor(anchor_updates)}
    tensors = {
        "model": copied(tokenizer.state_dict()),
        "averages": averages,
        "optimizer": optimizer_state(optimizer),
        "discriminator": {**copied(discriminator.state_dict()), **lecam},
        "discriminator_optimizer": optimizer_state(its_optimizer),
        "random": ranks.tensors(),
    }
    return Plain(tensors, losses)


def prior_steps(config: PriorTrainingConfig, store: TokenStore, world: int) -> Plain:
    """Train a prior; each rank draws its dropout from its own random state."""
    optim, seed = config.optim, config.run.seed
    torch.manual_seed(seed)
    prior = Prior(config_for(store.header, config.model))
    optimizer = adamw(prior, optim, optim.betas)
    averages = copied(prior.state_dict())
    ranks = Ranks(config, TokenSequence(store, "train", seed), world)
    losses: dict[int, dict[str, float]] = {}
    for step in range(optim.steps):
        gradients, nats = [], []
        for rank in range(world):
            torch.set_rng_state(ranks.states[rank])
            total = torch.zeros(())
            for _ in range(optim.accumulation):
                batch = next(ranks.batches[rank]).flat(CPU)
                loss = prior_loss(prior(*batch), batch.tokens).nats
                (loss / optim.accumulation).backward()
                total += loss.detach() / optim.accumulation
            ranks.states[rank] = torch.get_rng_state()
            gradients.append(taken_gradients(prior))
            nats.append(total)
        update(optimizer, prior, gradients, optim.clip_norm, learning_rate(optim, step))
        follow(averages, prior, step, config.run.average_decay)
        losses[step + 1] = {"bits_per_token": float(mean(nats)) / math.log(2)}
    tensors = {
        "model": copied(prior.state_dict()),
        "averages": averages,
        "optimizer": optimizer_state(optimizer),
        "random": ranks.tensors(),
    }
    return Plain(tensors, losses)
