"""Compiles parts of a model before a training's first step, and never after it."""

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
    """Compile parts of a model, or none on any rank if the compiler fails on one.

    Collective. A forward and a backward pass are made to see it; they change no gradient and no
    random number.

    Args:
        accelerator: the Accelerator.
        model: what the training steps call, wrapped where there are ranks.
        parts: what is compiled.
        trial: runs the parts on a batch of the training's size and returns a loss of it.
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
        part._compiled_call_impl = None  # what `compile` set
    if failure is not None:
        warn_of_fallback("run.compile: torch.compile", failure)


def uncompiled(is_compiled: bool) -> AbstractContextManager[None]:
    """Return a context in which compiled modules run uncompiled.

    It is for validations, where averaged weights and other batch sizes would be compiled again.
    """
    return torch.compiler.set_stance("force_eager") if is_compiled else nullcontext()


def not_recompiled(is_compiled: bool) -> AbstractContextManager[None]:
    """Return a context in which nothing is compiled: what does not fit the trial's code runs as is.

    It is for training steps: a compiler that is called again could fail, and so end the run on one
    rank and leave the others waiting.
    """
    return torch.compiler.set_stance("eager_on_recompile") if is_compiled else nullcontext()
