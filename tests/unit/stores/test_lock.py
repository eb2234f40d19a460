"""Tests that a lock ends with its process, and that errors name the lock's holder."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from holder import HOLD, Holder

from video_vq.errors import InputError
from video_vq.stores import lock
from video_vq.stores.lock import LOCK, acquire, held, require_free


@pytest.fixture(autouse=True)
def nothing_is_held_or_told(monkeypatch):
    monkeypatch.setattr(lock, "_told", set())
    before = os.listdir("/proc/self/fd")
    yield
    assert lock._held == {}
    assert os.listdir("/proc/self/fd") == before


def is_free_for_others(path: Path, single_file: bool = False) -> bool:
    holder = Holder(path, single_file)
    try:
        return holder.holds
    finally:
        holder.leave()


@pytest.mark.parametrize("single_file", [False, True])
def test_a_second_start_is_refused_with_the_holder_until_it_is_killed(tmp_path, single_file):
    path = tmp_path / "new" / "out"
    with Holder(path, single_file) as holder:
        for refused in (acquire, require_free):
            with pytest.raises(InputError) as refusal:
                refused(path, single_file)
            assert str(refusal.value).startswith(f"{path}: is being written by {holder.name}")
            assert str(refusal.value).endswith("or end it, then run this again")
        holder.kill()  # -9
        require_free(path, single_file)
        with held(path, single_file):
            assert not is_free_for_others(path, single_file)
    assert not list(tmp_path.rglob("*lock"))


def test_a_lock_that_is_let_go_leaves_nothing_and_keeps_what_was_there(tmp_path):
    with held(tmp_path / "made"):
        assert [entry.name for entry in (tmp_path / "made").iterdir()] == [LOCK]
    assert not (tmp_path / "made").exists()
    (tmp_path / "there").mkdir()
    with held(tmp_path / "there"):
        pass
    with held(tmp_path / "filled"):
        (tmp_path / "filled" / "x").touch()
    with held(tmp_path / "sheet.png", single_file=True):
        assert (tmp_path / ".sheet.png.lock").exists()
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "filled", "filled/x", "there",
    ]  # fmt: skip


@pytest.mark.parametrize("single_file", [False, True])
def test_a_lock_that_another_took_in_the_place_of_a_removed_folder_is_left_alone(
    tmp_path, single_file
):
    path = tmp_path / "made" / "x" if single_file else tmp_path / "made"
    own = acquire(path, single_file)
    shutil.rmtree(tmp_path / "made")
    with Holder(path, single_file) as holder:
        own.release()
        with pytest.raises(InputError, match=f"written by {holder.name}"):
            acquire(path, single_file)


def test_a_folder_that_another_made_anew_stays(tmp_path):
    own = acquire(tmp_path / "made")
    (tmp_path / "made").rename(tmp_path / "away")
    (tmp_path / "made").mkdir()
    own.release()
    assert (tmp_path / "made").exists()


NOT_TO_BE_LOOKED_AT = {"no permission": "locked/out", "a name that is too long": "x" * 300 + "/out"}


@pytest.mark.parametrize("place", NOT_TO_BE_LOOKED_AT.values(), ids=NOT_TO_BE_LOOKED_AT)
def test_a_place_that_cannot_be_looked_at_gets_one_sentence(tmp_path, monkeypatch, place):
    no_entry(monkeypatch, tmp_path / "locked")
    (tmp_path / "locked").mkdir()
    require_free(tmp_path / place)
    with pytest.raises(InputError, match=r"is not a writable folder \((Permission|File)"):
        acquire(tmp_path / place)


def no_entry(monkeypatch, folder: Path) -> None:
    """Deny access to a folder's contents, as the system does to all users except root."""

    def refusing(whole):
        def call(path, *arguments, **more):
            if isinstance(path, str | os.PathLike) and folder in Path(path).parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return whole(path, *arguments, **more)

        return call

    for name in ("stat", "lstat", "mkdir", "open"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))


def test_a_folder_and_a_file_in_it_are_two_things(tmp_path):
    with held(tmp_path), held(tmp_path / "a.html", True), Holder(tmp_path / "b.html", True):
        pass


def test_a_process_may_take_its_own_lock_again_and_the_last_to_let_go_frees_it(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    outer = acquire(tmp_path)
    with held(link):
        require_free(tmp_path)
    assert not is_free_for_others(tmp_path)
    outer.release()
    outer.release()  # once is all it takes
    assert is_free_for_others(tmp_path)


FORK = """
import os, time
if os.fork() == 0:
    lock.release()  # of a child, it is nothing
    os.close(0), os.close(1)
    os.read({pipe}, 1)
    os._exit(0)
"""
MULTIPROCESSING = """
import multiprocessing
multiprocessing.get_context("fork").Process(target=os.read, args=({pipe}, 1)).start()
"""
EXEC = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import os; os.read({pipe}, 1)"], pass_fds=[{pipe}])
"""


class Pipe:
    """A pipe that holders inherit; their children live until the pipe is closed."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self._is_open = True

    def close(self) -> None:
        """Close the pipe, so that the children end; later calls do nothing."""
        if self._is_open:
            os.close(self.writing)
            os.close(self.reading)
        self._is_open = False


@pytest.fixture
def pipe(monkeypatch) -> Iterator[Pipe]:
    made, whole = Pipe(), subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *a, **named: whole(*a, **named, pass_fds=[made.reading])
    )
    yield made
    made.close()


@pytest.mark.parametrize("child", [FORK, MULTIPROCESSING, EXEC])
def test_children_that_outlive_a_killed_holder_do_not_keep_its_lock(tmp_path, pipe, child):
    more = "import os\n" + child.format(pipe=pipe.reading)
    with Holder(tmp_path, more=more) as holder, closing(pipe):
        with pytest.raises(InputError, match="is being written by process"):
            acquire(tmp_path)
        holder.kill()
        with held(tmp_path):
            # The child lives on, and a new holder is not freed by what it does.
            assert not is_free_for_others(tmp_path)


KEEPING = """
import subprocess, sys
subprocess.Popen(
    [sys.executable, "-c", "import os; os.read({pipe}, 1)"], pass_fds=[{pipe}, lock.descriptor]
)
"""


def test_children_that_were_handed_the_lock_are_waited_for(tmp_path, monkeypatch, pipe):
    with Holder(tmp_path, more=KEEPING.format(pipe=pipe.reading)) as holder, closing(pipe):
        holder.kill()
        monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.1)
        with pytest.raises(InputError, match=f"by a process left over from {holder.name}"):
            acquire(tmp_path)
        monkeypatch.setattr(lock, "PATIENCE_SECONDS", 60.0)
        slept, whole = [], time.sleep

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 3:
                pipe.close()
            whole(seconds)

        monkeypatch.setattr(time, "sleep", sleep)
        with held(tmp_path):
            assert len(slept) >= 3


def test_a_run_whose_launcher_has_returned_holds_its_folder_until_it_ends(tmp_path):
    launcher = (
        "import subprocess, sys\n"
        "run = subprocess.Popen(sys.argv[1:], stdin=0, stdout=1)\n"
        "print(run.pid, flush=True)\n"
    )
    run = [sys.executable, "-c", HOLD.format(more="")]
    with subprocess.Popen(
        [sys.executable, "-c", launcher, *run, str(tmp_path), ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        said = {process.stdout.readline().strip() for _ in range(2)}
        (pid,) = said - {"held"}
        process.wait()
        with pytest.raises(InputError, match=f"by process {pid} on .*it may outlive its launcher"):
            require_free(tmp_path)
        process.stdin.close()
        assert process.stdout.read() == ""  # it has ended
    require_free(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF])
def test_a_drive_without_locks_is_said_once_and_work_goes_on(tmp_path, monkeypatch, capsys, code):
    def without(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock, "flock", without)
    for _ in range(2):
        require_free(tmp_path)
        with held(tmp_path) as got:
            assert got.descriptor is None
    said = capsys.readouterr().err
    assert said == (
        f"warning: {tmp_path}: cannot be locked here ({os.strerror(code)}); continuing without "
        "a lock: make sure that nothing else writes there\n"
    )


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_lock_that_cannot_be_made_is_said_and_work_goes_on(tmp_path, monkeypatch, capsys, code):
    def failing(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        require_free(tmp_path)
        with held(tmp_path):
            pass
    assert f"cannot be locked here ({os.strerror(code)})" in capsys.readouterr().err


def test_a_full_disk_costs_the_holders_name_and_not_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.1)
    full = "import os; os.ftruncate(lock.descriptor, 0)"
    with (
        Holder(tmp_path, more=full),
        pytest.raises(InputError, match="by an unknown process"),
    ):
        acquire(tmp_path)

    def failing(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", failing)
    with held(tmp_path), open(tmp_path / LOCK) as other, pytest.raises(BlockingIOError):
        lock.flock(other.fileno(), lock.fcntl.LOCK_SH)


def hostile_fifo(path: Path) -> None:
    os.mkfifo(path)


def hostile_link(path: Path) -> None:
    path.symlink_to(path.parent / "precious")


HOSTILE = {
    "binary": lambda path: path.write_bytes(b"\xff\x00" * 9000),
    "deep": lambda path: path.write_text("[" * 4000),
    "a list": lambda path: path.write_text("[1]"),
    "no number": lambda path: path.write_text('{"host": "h", "pid": "1e9", "since": ""}'),
    "escapes": lambda path: path.write_text('{"host": "\\u001b[2J", "pid": 1, "since": "x"}'),
    "fifo": hostile_fifo,
    "link": hostile_link,
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_whatever_lies_in_the_place_of_a_lock_harms_nothing(tmp_path, capsys, kind):
    (tmp_path / "precious").write_text("kept")
    HOSTILE[kind](tmp_path / LOCK)
    require_free(tmp_path)
    with held(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "kept"
    assert ("cannot be locked" in capsys.readouterr().err) == (kind in ("link", "folder"))


def test_a_holder_is_named_whatever_stood_in_the_file_before(tmp_path):
    (tmp_path / LOCK).write_text("x" * 500)
    with Holder(tmp_path) as holder, pytest.raises(InputError, match=f"written by {holder.name}"):
        require_free(tmp_path)


def test_a_holder_that_would_paint_the_terminal_is_not_named(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.1)
    named = json.dumps({"host": "\x1b[2J", "pid": 1, "since": "x"})
    paint = f"import os; os.pwrite(lock.descriptor, {named!r}.encode() + b' ' * 200, 0)"
    with (
        Holder(tmp_path, more=paint),
        pytest.raises(InputError, match="by an unknown process"),
    ):
        acquire(tmp_path)


def test_a_holder_on_another_machine_is_believed_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 1e9)
    named = json.dumps({"host": "far-away", "pid": 2**22 + 1, "since": "2026-11-29 12:00:00+00:00"})
    far = f"import os; os.pwrite(lock.descriptor, {named!r}.encode() + b' ' * 200, 0)"
    with (
        Holder(tmp_path, more=far),
        pytest.raises(InputError, match="by process 4194305 on far-away, since 2026-11-29"),
    ):
        acquire(tmp_path)


def test_of_many_starts_at_once_exactly_one_holds_the_folder(tmp_path):
    with ExitStack() as stack:
        starts = [
            subprocess.Popen(
                [sys.executable, "-c", "input()\n" + HOLD.format(more=""), tmp_path / "new", ""],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for _ in range(6)
        ]  # fmt: skip
        for start in starts:
            stack.callback(start.communicate)
            assert start.stdin is not None
            start.stdin.write("\n")
            start.stdin.flush()
        said = [start.stdout.readline() for start in starts if start.stdout is not None]
    assert sorted(said) == [""] * 5 + ["held\n"]


def test_a_name_that_its_holder_took_away_in_the_meantime_is_locked_anew(tmp_path, monkeypatch):
    """Otherwise two processes could hold the folder: one by the old file, one by the new."""
    whole, calls = lock.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not calls:
            os.unlink(tmp_path / LOCK)
        calls.append(operation)
        whole(descriptor, operation)

    monkeypatch.setattr(lock, "flock", late)
    with held(tmp_path):
        assert len(calls) == 2
        assert not is_free_for_others(tmp_path)


def test_who_merely_looks_disturbs_neither_others_that_look_nor_a_start(tmp_path):
    # Of a killed run, whose number another process has by now.
    named = {"host": os.uname().nodename, "pid": os.getpid(), "since": "x"}
    (tmp_path / LOCK).write_text(json.dumps(named))
    looking = os.open(tmp_path / LOCK, os.O_RDONLY)
    lock.flock(looking, lock.fcntl.LOCK_SH)
    require_free(tmp_path)
    whole_sleep, slept = time.sleep, []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        os.close(looking)
        whole_sleep(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", sleep)
        with held(tmp_path):
            assert len(slept) == 1


def test_a_file_in_the_folders_place_is_left_to_the_caller(tmp_path):
    (tmp_path / "file").write_text("kept")
    with held(tmp_path / "file") as got:
        assert got.descriptor is None
    with pytest.raises(InputError, match="is not a writable folder"):
        acquire(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "kept"


def test_the_lock_needs_neither_torch_nor_numpy():
    code = (
        "import sys, video_vq.stores.lock\n"
        "assert not {'torch', 'numpy', 'av'} & set(sys.modules), 'heavy'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
