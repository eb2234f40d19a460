"""The optimizer: which tensors it moves and how fast, its state as named tensors, its memory."""

from typing import Any

import torch
from torch import Tensor, nn

from video_vq.models.pretrained import check_tensors
from video_vq.training.training_config import OptimizerConfig


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019) for all tensors of a module that are trained."""
    return torch.optim.AdamW(
        parameter_groups(module, config), lr=config.lr, betas=config.betas, eps=config.eps
    )


def parameter_groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the trained tensors in groups: matrices and kernels are decayed, all else is not.

    Vectors, norms and embeddings are kept from decay: it would draw them to zero without a reason.
    """
    trained = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    decayed = [value for name, value in trained if value.ndim >= 2 and "embedding" not in name]
    kept = [value for name, value in trained if value.ndim < 2 or "embedding" in name]
    return [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate of this step."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def state_of(group: dict[str, Any], value: Tensor) -> dict[str, Tensor]:
    """Return what the optimizer keeps of one tensor after its first step.

    Args:
        group: of the tensor; a group with another algorithm is another branch here.
        value: the tensor.

    Returns:
        Tensors of the right names, shapes and types; their values mean nothing.
    """
    return {"step": torch.zeros(()), "exp_avg": value, "exp_avg_sq": value}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten an optimizer's state to named tensors, `index.name`, for a checkpoint.

    The index counts the tensors of all groups, in the order of `parameter_groups`.
    """
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value).detach().cpu()
        for index, values in state.items()
        for name, value in values.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave of such an optimizer.

    Raises:
        InputError: the tensors are not those of this optimizer.
    """
    current = optimizer.state_dict()
    trained = [(group, value) for group in optimizer.param_groups for value in group["params"]]
    expected: dict[str, Tensor] = {}
    if tensors:  # none before the first step that was not skipped
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
    """Return the bytes of all weights, their gradients and the optimizer's state.

    Works on tensors without data, too.
    """
    weights = sum(value.nbytes for value in module.parameters())
    state = sum(
        kept.nbytes
        for group in parameter_groups(module, config)
        for value in group["params"]
        for kept in state_of(group, value).values()
    )
    return 2 * weights + state
