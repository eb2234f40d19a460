"""Locks on output paths, so that two processes cannot write the same output.

A lock is `flock` on a small file that records the lock's holder: `.lock` in a folder, `.NAME.lock`
beside a single file. The lock is released when the process that holds it ends for any reason; a
leftover lock file has no effect. A process may acquire its own lock again, so that steps can be
nested. This module imports neither torch nor numpy.

POSIX locks (`fcntl.lockf`), which forked children do not share, are unsuitable: a process releases
them when it closes any descriptor of the file, so reading the holder of a lock would release the
lock. An `flock` belongs to the open file description, which a forked child shares: the lock would
outlast a killed parent. A forked child therefore closes the descriptor immediately. Children that
write into the folder themselves, such as data-prep's workers, receive the descriptor and keep the
lock until they end.
"""

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from video_vq.errors import InputError

LOCK = ".lock"
# The workers of a killed process may take this long to notice that it has ended.
PATIENCE_SECONDS = 10.0
RETRY_SECONDS = 0.05


@dataclass(frozen=True)
class _Holder:
    host: str
    pid: int
    since: str


@dataclass
class _Held:
    """A lock that this process holds.

    Attributes:
        descriptor: descriptor of the lock file.
        made_folder: whether the folder was created for the lock.
        count: number of acquisitions that have not been released yet.
    """

    descriptor: int
    made_folder: bool
    count: int = 0


_held: dict[str, _Held] = {}  # by the path of the lock file
_told: set[str] = set()  # lock files that could not be locked, as has been reported


def flock(descriptor: int, operation: int) -> None:
    """Lock an open file without waiting; a separate function so that tests can make locks fail."""
    fcntl.flock(descriptor, operation | fcntl.LOCK_NB)


class Lock:
    """A lock returned by `acquire`.

    Args:
        file: path of the lock file; None if nothing could be locked.
    """

    def __init__(self, file: str | None):
        self._file = file

    @property
    def descriptor(self) -> int | None:
        """Return the descriptor of the lock file, which children may inherit, or None."""
        return None if self._file is None else _held[self._file].descriptor

    def release(self) -> None:
        """Release the lock, and remove the folder if it was created for the lock and is empty.

        If the folder was removed and another process has created a lock file of the same name, that
        file is kept.
        """
        file, self._file = self._file, None
        own = None if file is None else _held.get(file)  # None in a forked child
        if file is None or own is None:
            return
        own.count -= 1
        if own.count:
            return
        del _held[file]
        with suppress(OSError):
            if _is_named(own.descriptor, file):
                os.unlink(file)
                if own.made_folder:
                    os.rmdir(os.path.dirname(file))
        os.close(own.descriptor)


def acquire(path: Path, single_file: bool = False) -> Lock:
    """Lock a folder or a file that this process is about to write.

    If the file system does not support locks or the lock file cannot be created, print a warning to
    stderr once and return an object without a lock.

    Args:
        path: the folder, or the file if `single_file`; a missing folder is created. If `path` must
            be a folder but is a file, nothing is locked, and the caller must reject the path.
        single_file: whether `path` is a file to write.

    Raises:
        InputError: another process holds the lock, in which case the message gives the process's
            host and id, and the time of locking; or the folder cannot be created.
    """
    if not single_file and os.path.exists(path) and not os.path.isdir(path):
        return Lock(None)
    file = _file_of(path, single_file)
    if file not in _held:
        made = not os.path.exists(os.path.dirname(file))
        try:
            descriptor = _locked(file, path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)
        except OSError as error:
            if file not in _told:
                print(
                    f"warning: {path}: cannot be locked here ({error.strerror or error}); "
                    "continuing without a lock: make sure that nothing else writes there",
                    file=sys.stderr,
                    flush=True,
                )
            _told.add(file)
            return Lock(None)
        _held[file] = _Held(descriptor, made)
        _sign(descriptor)
    _held[file].count += 1
    return Lock(file)


@contextmanager
def held(path: Path, single_file: bool = False) -> Iterator[Lock]:
    """Acquire a lock for the duration of a block; see `acquire`."""
    lock = acquire(path, single_file)
    try:
        yield lock
    finally:
        lock.release()


def require_free(path: Path, single_file: bool = False) -> None:
    """Raise an error if another process holds the lock, without acquiring the lock.

    Several ranks may call this function at the same time.

    Raises:
        InputError: another process holds the lock; the message gives the process's host and id, and
            the time of locking.
    """
    file = _file_of(path, single_file)
    if file in _held or not os.path.exists(file):
        return
    with suppress(OSError):  # `acquire` reports any other problem
        os.close(_locked(file, path, os.O_RDONLY, fcntl.LOCK_SH))


def _file_of(path: Path, single_file: bool) -> str:
    folder = os.path.realpath(path.parent if single_file else path)
    return os.path.join(folder, f".{path.name}{LOCK}" if single_file else LOCK)


def _locked(file: str, path: Path, flags: int, operation: int) -> int:
    """Lock a lock file, with retries, and return its descriptor.

    Raises:
        InputError: another process holds the lock.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    is_second_try = False
    while True:
        if flags & os.O_CREAT:
            _make_folder(os.path.dirname(file), path)
        try:
            descriptor = os.open(file, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except FileNotFoundError:
            if flags & os.O_CREAT and time.monotonic() < end:
                continue  # the folder was created for a lock that has just been released
            raise
        try:
            flock(descriptor, operation)
            if _is_named(descriptor, file):
                return descriptor
            os.close(descriptor)  # the holder has released the lock and removed the file
            continue
        except BlockingIOError:
            holder = _read_holder(descriptor)
            os.close(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        # Try twice, as another process may be checking at this moment whether the lock is free.
        if (is_second_try and _is_alive(holder)) or time.monotonic() > end:
            raise InputError(_refusal(path, holder))
        is_second_try = True
        time.sleep(RETRY_SECONDS)


def _make_folder(folder: str, path: Path) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: is not a writable folder ({error.strerror}); name another"
        ) from None


def _is_named(descriptor: int, file: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Record this process as the lock's holder; ignore errors, which do not affect the lock."""
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    holder = _Holder(os.uname().nodename, os.getpid(), since)
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(holder)).encode(), 0)


def _read_holder(descriptor: int) -> _Holder | None:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        holder = _Holder(str(found["host"]), int(found["pid"]), str(found["since"]))
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return holder if (holder.host + holder.since).isprintable() else None


def _is_alive(holder: _Holder | None) -> bool:
    """Return whether a lock's holder is running; holders on other machines count as running."""
    if holder is None:
        return False
    if holder.host != os.uname().nodename:
        return True
    try:
        with open(f"/proc/{holder.pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _refusal(path: Path, holder: _Holder | None) -> str:
    who = "an unknown process"
    if holder is not None:
        who = f"process {holder.pid} on {holder.host}, since {holder.since}"
        if not _is_alive(holder):
            who = f"a process left over from {who}"
    return (
        f"{path}: is being written by {who}; wait until it ends (it may outlive its launcher), or "
        "end it, then run this again"
    )


def _close_in_child() -> None:
    for own in _held.values():
        os.close(own.descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
