"""Decoding steps recorded as CUDA graphs, so that all kernels of a step launch together."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from video_vq.nn.fallback import warn_of_fallback


class Step(NamedTuple):
    """Result of a step: logits for the next token's first sub-code, and the last slot's output."""

    logits: Tensor
    last: Tensor


Work = Callable[[int], Step]


class StepGraphs:
    """A decoding step that runs eagerly once per cache span, and then as a CUDA graph.

    Graphs replay the kernels of the eager step, so samples are bitwise equal with and without
    graphs. If a graph cannot be recorded, a single warning is given, and all later steps run
    eagerly; out-of-memory errors are raised instead.

    Args:
        work: function that runs a step over a span of the cache. The function reads and writes the
            same tensors in every call, and can repeat a completed step.
        record: function that records a call of the given function and returns a function that
            replays the call and overwrites the earlier results; None for CUDA graphs.
    """

    def __init__(self, work: Work, record: Callable[..., Callable[[], Step]] | None = None):
        self._work = work
        self._record = record or _Recorder().record
        self._recorded: dict[int, Callable[[], Step]] | None = {}

    def __call__(self, span: int) -> Step:
        """Run a step over a span of the cache."""
        if self._recorded is None:
            return self._work(span)
        if span in self._recorded:
            return self._recorded[span]()
        done = self._work(span)
        try:
            self._recorded[span] = self._record(lambda: self._work(span))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self._recorded = None
            warn_of_fallback("recording a CUDA graph of a sampling step", error)
        return done


class _Recorder:
    def __init__(self) -> None:
        self._pool: Any = None

    def record(self, work: Callable[[], Step]) -> Callable[[], Step]:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            step = work()

        def replay() -> Step:
            graph.replay()
            return step

        return replay
