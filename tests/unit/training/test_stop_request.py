"""Tests of requests to stop: signals, repeated signals and restored handlers."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from video_vq.machine import LAUNCHER_SIGNS
from video_vq.training import stop_request
from video_vq.training.stop_request import SIGNALS, StopRequest


@pytest.fixture(autouse=True)
def nothing_ignored():
    """Reset ignored signals, as tests may run under nohup or in a script's background."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        if before[number] == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number in SIGNALS:
        signal.signal(number, before[number])


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in LAUNCHER_SIGNS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_the_reason_and_its_echo_is_ignored(number, capfd):
    before = [signal.getsignal(one) for one in SIGNALS]
    with StopRequest() as request:
        assert request.reason == ""
        os.kill(os.getpid(), number)
        for echo in SIGNALS:
            os.kill(os.getpid(), echo)
        assert request.reason == signal.Signals(number).name
    assert [signal.getsignal(one) for one in SIGNALS] == before
    said = capfd.readouterr().err
    assert said.splitlines() == [
        f"{signal.Signals(number).name}: finishing this step, then saving; "
        "another signal, 5 s or more from now, ends it at once"
    ]


def test_what_was_ignored_from_the_start_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.reason == ""
            os.kill(os.getpid(), signal.SIGTERM)
            assert request.reason == "SIGTERM"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_precision_set_by_hand_is_no_launcher(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(StopRequest, "_watch", lambda *_: pytest.fail("watched"))
    before = threading.active_count()
    with StopRequest():
        assert threading.active_count() == before


def test_handlers_come_back_after_an_error():
    before = [signal.getsignal(one) for one in SIGNALS]
    during = []

    def fail() -> None:
        with StopRequest():
            during.extend(signal.getsignal(one) for one in SIGNALS)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not set(during) & set(before)
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_outside_the_main_thread_it_is_there_and_hears_nothing():
    found: list[str] = []

    def work() -> None:
        before = [signal.getsignal(one) for one in SIGNALS]
        with StopRequest() as request:
            assert [signal.getsignal(one) for one in SIGNALS] == before
            found.append(request.reason)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [""]


def test_a_second_signal_after_the_echo_ends_the_process():
    program = (
        "import os, signal\n"
        "from video_vq.training import stop_request\n"
        "stop_request.ECHO_SECONDS = -1.0\n"
        "with stop_request.StopRequest():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('never here', flush=True)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert answer.returncode == -signal.SIGINT, answer.stderr
    assert answer.stdout == "still here\n"


def test_the_death_of_the_launcher_is_a_request(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(stop_request, "WATCH_SECONDS", 0.01)
    asked = threading.Event()
    monkeypatch.setattr(StopRequest, "_ask", lambda self, reason: asked.set())
    with StopRequest():
        assert not asked.wait(0.1)
        parent = os.getppid()
        monkeypatch.setattr(os, "getppid", lambda: parent + 1)
        assert asked.wait(60)


@pytest.mark.parametrize(
    ("command", "is_gone"),
    [(b"/sbin/init\0", True), (b"python\0/bin/accelerate\0launch\0", False), (None, False)],
)
def test_a_launcher_that_died_before_anybody_listened_is_noticed(
    monkeypatch, tmp_path, command, is_gone
):
    # Process 1 adopts what is left behind; in a container the launcher may be process 1.
    if command is not None:
        (tmp_path / "cmdline").write_bytes(command)
    monkeypatch.setattr(stop_request, "FIRST_PROCESS", tmp_path / "cmdline")
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setenv(LAUNCHER_SIGNS[0], "default")
    monkeypatch.setattr(stop_request, "WATCH_SECONDS", 0.01)
    asked = threading.Event()
    monkeypatch.setattr(StopRequest, "_ask", lambda self, reason: asked.set())
    with StopRequest():
        assert asked.wait(60 if is_gone else 0.2) == is_gone
