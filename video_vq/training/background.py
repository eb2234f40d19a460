"""Saving while training continues: copies are taken at once, a thread writes the bytes."""

import threading
from collections.abc import Callable

from torch import Tensor


class Snapshot:
    """Copies of tensors in main memory, in buffers that the next copies are taken into."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def take(self, tensors: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Copy: file name -> tensor name -> tensor; earlier copies are overwritten."""
        return {
            file: {name: self._copy((file, name), value) for name, value in values.items()}
            for file, values in tensors.items()
        }

    def _copy(self, key: tuple[str, str], value: Tensor) -> Tensor:
        value = value.detach()
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            self._buffers[key] = value.to("cpu", copy=True)
        else:
            buffer.copy_(value)
        return self._buffers[key]


class BackgroundJob:
    """One job at a time in a thread; `wait` raises what the job raised.

    The interpreter waits for the thread before it exits, so an unhandled error elsewhere costs no
    checkpoint.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Run `work`; the previous job must have been waited for."""
        assert self._thread is None

        def catch() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=catch)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the job, if there is one.

        Raises:
            What the job raised.
        """
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # it would keep this frame and all that the job held, including a lock
