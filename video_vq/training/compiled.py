"""Compilation of model parts each time a run starts or resumes, before its first step."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from video_vq.distributed import over_ranks
from video_vq.nn.fallback import warn_of_fallback


def compile_parts(
    accelerator: Accelerator,
    model: nn.Module,
    parts: Sequence[nn.Module],
    trial: Callable[[], Tensor],
) -> None:
    """Compile parts of a model on all ranks, or on no rank if the compiler fails on any rank.

    All ranks must call this function. Trial forward and backward passes trigger the compilation;
    afterwards, the gradients are reset, and the random state is as before.

    Args:
        model: the model that training steps call, wrapped by DDP if there are several ranks.
        parts: modules to compile.
        trial: function that runs the parts on a batch of the training batch size and returns a
            loss.

    Raises:
        torch.OutOfMemoryError: the trial does not fit into memory.
    """
    for part in parts:
        part.compile()
    failure: Exception | None = None
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    model.train()
    with torch.random.fork_rng(devices), accelerator.no_sync(model), accelerator.autocast():
        try:
            accelerator.backward(trial())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            failure = error
    model.zero_grad()
    failures = torch.tensor(float(failure is not None), device=accelerator.device)
    if over_ranks(accelerator, failures, "sum") == 0:
        return
    for part in parts:
        part._compiled_call_impl = None  # set by `compile`
    if failure is not None:
        warn_of_fallback("run.compile: torch.compile", failure)


def uncompiled(is_compiled: bool) -> AbstractContextManager[None]:
    """Return a context in which compiled modules run uncompiled.

    Use this context for validation, where averaged weights and other batch sizes would cause
    recompilation.
    """
    return torch.compiler.set_stance("force_eager") if is_compiled else nullcontext()


def not_recompiled(is_compiled: bool) -> AbstractContextManager[None]:
    """Return a context without recompilation: inputs that do not fit the compiled code run eagerly.

    Use this context for training steps: recompilation could fail, which would end the run on one
    rank and leave the other ranks waiting.
    """
    return torch.compiler.set_stance("eager_on_recompile") if is_compiled else nullcontext()
