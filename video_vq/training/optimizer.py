"""The optimizer: parameter groups, state as named tensors, memory and learning rate."""

import math
import re
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from video_vq.models.pretrained import check_tensors
from video_vq.nn.precision import exact_float32
from video_vq.training.training_config import OptimizerConfig

MOMENTUM = 0.95
# Five iterations of a x + b x³ + c x⁵ map singular values in (0, 1] to between 0.7 and 1.2.
NEWTON_SCHULZ, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
# Root mean square of AdamW's updates, to which Muon's are scaled to share learning rates.
ADAMW_RMS = 0.2
LEAST_ROWS = 16  # AdamW updates matrices with fewer rows or columns
# Muon is known to hurt layers that read or write pixels, codes or tokens: the first and last layers
# of encoders, decoders, priors and quantizers. The names are those in `models/`; if the outer
# layers of a new backbone have other names, add the names here.
OUTER_LAYERS = re.compile(
    r"(encoder\.(layers\.0|embed)|decoder\.(out|to_pixels)|quantizer|head|action_embedding)\."
)


def make_optimizer(
    module: nn.Module, config: OptimizerConfig, outer_layers: re.Pattern[str] = OUTER_LAYERS
) -> torch.optim.Optimizer:
    """Return an optimizer for all trainable tensors of a module; see `OptimizerConfig`.

    Args:
        outer_layers: pattern that matches the start of tensor names that Muon must not update.
    """
    optimizer = Muon if config.kind == "muon" else torch.optim.AdamW
    groups = parameter_groups(module, config, outer_layers)
    return optimizer(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def parameter_groups(
    module: nn.Module, config: OptimizerConfig, outer_layers: re.Pattern[str] = OUTER_LAYERS
) -> list[dict[str, Any]]:
    """Return the parameter groups; weight decay applies only to matrices and kernels.

    Vectors (biases and norm weights) and embeddings have no weight decay, as there is no reason to
    pull them toward zero. With Muon, hidden matrices and kernels form a third group.
    """
    hidden: list[Tensor] = []
    decayed: list[Tensor] = []
    kept: list[Tensor] = []
    for name, value in module.named_parameters():
        if not value.requires_grad:
            continue
        if value.ndim < 2 or "embedding" in name:
            kept.append(value)
        elif config.kind == "muon" and is_hidden(name, value, outer_layers):
            hidden.append(value)
        else:
            decayed.append(value)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    if hidden:
        decay = config.weight_decay
        groups.append({"params": hidden, "weight_decay": decay, "is_orthogonalised": True})
    return groups


def is_hidden(name: str, matrix: Tensor, outer_layers: re.Pattern[str] = OUTER_LAYERS) -> bool:
    """Return whether a matrix or kernel connects hidden features and is large enough for Muon.

    Args:
        outer_layers: pattern that matches the start of tensor names that Muon must not update.
    """
    is_weight = name.endswith("weight") and not outer_layers.match(name)
    return is_weight and min(matrix.flatten(1).shape) >= LEAST_ROWS


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for groups with `is_orthogonalised`, and AdamW for all others.

    Both algorithms share one optimizer, so that fp16 loss scaling skips the step of both or of
    neither. A kernel is treated as a matrix of output channels by all other axes. The Nesterov
    momentum of each matrix is orthogonalized and scaled by 0.2 √max(rows, columns), so that AdamW's
    learning rates apply (Liu et al. 2025, eq. 4). Weight decay is the same as in AdamW. All ranks
    compute the same update from the same gradients.

    In contrast, `torch.optim.Muon` supports only matrices, needs AdamW as a separate optimizer, and
    iterates in bf16.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float
    ):
        rest = [group for group in groups if not group.get("is_orthogonalised")]
        self._adamw = torch.optim.AdamW(rest, lr=lr, betas=betas, eps=eps)
        super().__init__(groups, {**self._adamw.defaults, "is_orthogonalised": False})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step with the current gradients; closures are not supported."""
        assert closure is None
        self._adamw.state = self.state
        self._adamw.param_groups = [g for g in self.param_groups if not g["is_orthogonalised"]]
        self._adamw.step()
        for group in self.param_groups:
            if group["is_orthogonalised"]:
                for value in group["params"]:
                    if value.grad is not None:
                        self._move(value, value.grad, group["lr"], group["weight_decay"])

    def _move(self, value: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[value]
        if not state:
            state["momentum"] = torch.zeros_like(value)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        update = orthogonalise(gradient.lerp(momentum, MOMENTUM).flatten(1))
        value.mul_(1 - lr * weight_decay)
        value.add_(update.view_as(value), alpha=-lr * ADAMW_RMS * math.sqrt(max(update.shape)))


def orthogonalise(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """Bring the singular values of a matrix close to 1 and keep its singular vectors.

    The Newton–Schulz iteration of Jordan et al. 2024, X ← (a + bXXᵀ + c(XXᵀ)²)X, multiplies X by a
    polynomial of XXᵀ. The iteration therefore runs on this small Gram matrix, and X is multiplied
    only once, at the end. This order takes two products along the long side instead of ten, which
    makes float32 affordable.
    """
    with exact_float32(matrix.device):
        x = matrix.float()
        x = x if len(x) <= x.shape[1] else x.T
        x = x / x.norm().clamp(min=1e-7)
        a, b, c = NEWTON_SCHULZ
        gram = x @ x.T
        product = torch.eye(len(x), device=x.device)
        for _ in range(ITERATIONS):
            factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
            factor.diagonal().add_(a)
            product = factor @ product
            gram = factor @ gram @ factor
        update = product @ x
    return update if update.shape == matrix.shape else update.T


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def state_of(group: dict[str, Any], value: Tensor) -> dict[str, Tensor]:
    """Return placeholders for the state that an optimizer has for one tensor after its first step.

    Args:
        group: parameter group of the tensor, which determines the algorithm.

    Returns:
        Tensors with the right names, shapes and dtypes, but meaningless values.
    """
    if group.get("is_orthogonalised"):
        return {"momentum": value}
    return {"step": torch.zeros(()), "exp_avg": value, "exp_avg_sq": value}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as tensors named `index.name`, for a checkpoint.

    The index counts the tensors of all groups, in the order of `parameter_groups`.
    """
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value).detach().cpu()
        for index, values in state.items()
        for name, value in values.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore an optimizer's state from tensors that `optimizer_tensors` returned.

    Raises:
        InputError: the tensors are not those of this optimizer.
    """
    current = optimizer.state_dict()
    trained = [(group, value) for group in optimizer.param_groups for value in group["params"]]
    expected: dict[str, Tensor] = {}
    if tensors:  # there are none before the first step is taken
        for index, (group, value) in enumerate(trained):
            for name, kept in state_of(group, value).items():
                expected[f"{index}.{name}"] = kept
    check_tensors(expected, tensors, "the optimizer")
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": current["param_groups"]})


def trained_bytes(module: nn.Module, config: OptimizerConfig) -> int:
    """Return the size in bytes of a module's weights and gradients and the optimizer's state.

    Tensors without data, on the meta device, are counted, too.
    """
    weights = sum(value.nbytes for value in module.parameters())
    state = sum(
        kept.nbytes
        for group in parameter_groups(module, config)
        for value in group["params"]
        for kept in state_of(group, value).values()
    )
    return 2 * weights + state


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Return the learning rate of an optimizer step.

    The rate rises linearly over `warmup_steps` and then falls to `final_lr` x `lr`: along a cosine,
    or, with `decay_steps`, linearly over only that many final steps (warm-up–stable–decay), which
    are at most all steps after the warm-up.

    Args:
        step: number of preceding optimizer steps.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    after_warmup = max(1, config.steps - config.warmup_steps)
    if config.decay_steps is None:
        done = (step - config.warmup_steps) / after_warmup
        left = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    else:
        decay_steps = min(config.decay_steps, after_warmup)
        left = min(1.0, max(0.0, (config.steps - step) / decay_steps))
    return config.lr * (config.final_lr + (1 - config.final_lr) * left)
