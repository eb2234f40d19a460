"""What every test relies on."""

import signal


def pytest_sessionstart() -> None:
    """Let the processes of the tests hear signals, whoever starts pytest.

    A job of `nohup`, of a shell's `&` or of a CI service may ignore SIGHUP, SIGINT or SIGTERM, and
    what it starts inherits that.
    """
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
