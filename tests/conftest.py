"""Settings for all tests: signal handlers, and the downloaded weights."""

import os
import signal

import pytest

DEFAULTS = {
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Restore the default handlers of ignored signals, as child processes inherit ignored signals.

    Pytest ignores the signals that its parent (for example nohup, or a shell with `&`) ignored, and
    all signals in DEFAULTS after a training run in this process was asked to stop.
    """
    for number, handler in DEFAULTS.items():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def weights_of_the_user() -> None:
    """Set the paths of weights to files in the user's cache, as tests use separate caches."""
    from video_vq.metrics.weights import I3D_WEIGHTS, ST_LPIPS_WEIGHTS
    from video_vq.stores.files import cache_folder

    for weights in (I3D_WEIGHTS, ST_LPIPS_WEIGHTS):
        if (path := cache_folder() / weights.stored.name).exists():
            os.environ.setdefault(weights.variable, str(path))
