"""What every test relies on."""

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
    """Let the processes that a test starts hear signals; they inherit what pytest ignores.

    It ignores what its own parent did, such as nohup or a shell's `&`, and all of these signals
    after a training of this process was asked to stop.
    """
    for number, handler in DEFAULTS.items():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def weights_of_the_user() -> None:
    """Name the weights that the user has fetched: tests put caches into folders of their own."""
    from video_vq.metrics.weights import I3D_WEIGHTS, ST_LPIPS_WEIGHTS
    from video_vq.stores.files import cache_folder

    for weights in (I3D_WEIGHTS, ST_LPIPS_WEIGHTS):
        if (path := cache_folder() / weights.stored.name).exists():
            os.environ.setdefault(weights.variable, str(path))
