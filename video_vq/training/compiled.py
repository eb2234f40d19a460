"""Keeps torch.compile away from what it must not compile."""

from contextlib import AbstractContextManager, nullcontext

import torch


def uncompiled(is_compiled: bool) -> AbstractContextManager[None]:
    """Return a context in which compiled modules run as written.

    It is for validations, where averaged weights and other batch sizes would be compiled again.
    """
    return torch.compiler.set_stance("force_eager") if is_compiled else nullcontext()
