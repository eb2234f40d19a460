"""What every test relies on."""

import signal

import pytest

DEFAULTS = {
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let the processes that a test starts hear signals; they inherit what pytest ignores.

    It ignores what its own parent did, such as nohup or a shell's `&`, and all of these signals
    after a training of this process was asked to stop.
    """
    for number, handler in DEFAULTS.items():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)
