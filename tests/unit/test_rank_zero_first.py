"""Tests of rejected launches, and that no rank waits for a failed first rank."""

from typing import Any
from unittest import mock

import pytest
import torch
from accelerate import Accelerator

from video_vq.distributed import holding, main_process_first, require_all_processes
from video_vq.errors import InputError
from video_vq.machine import LAUNCHER_SIGNS
from video_vq.stores.lock import LOCK


def fake(**attributes: Any) -> Any:
    """Return a fake Accelerator with the given attributes."""
    return mock.Mock(spec=Accelerator, **attributes)


@pytest.mark.parametrize(
    ("environment", "is_refused"),
    [
        ({}, False),
        ({"MASTER_ADDR": "127.0.0.1"}, False),
        ({LAUNCHER_SIGNS[0]: "default"}, False),
        ({LAUNCHER_SIGNS[0]: "default", "MASTER_ADDR": "127.0.0.1"}, True),
        ({LAUNCHER_SIGNS[0]: "default", "MASTER_ADDR": "h", "WORLD_SIZE": "2"}, False),
    ],
)
def test_a_launch_of_several_that_starts_one_is_refused(environment, is_refused):
    if not is_refused:
        require_all_processes(environment)
        return
    with pytest.raises(InputError, match="asked for several processes and started one"):
        require_all_processes(environment)


def ranks_of(is_main: bool, main_failed: bool = False) -> tuple[Any, list[str]]:
    """Return a fake of one of two ranks, and a list of its events.

    `main_failed` is the other rank's summand.
    """
    events: list[str] = []
    accelerator = fake(is_main_process=is_main, device=torch.device("cpu"))

    def reduce(value: torch.Tensor, how: str) -> torch.Tensor:
        assert how == "sum"
        events.append("everyone")
        return value + main_failed

    accelerator.reduce.side_effect = reduce
    return accelerator, events


@pytest.mark.parametrize("is_main", [True, False])
def test_nobody_waits_for_a_main_process_that_failed(is_main):
    accelerator, events = ranks_of(is_main)

    def fail() -> None:
        with main_process_first(accelerator):
            events.append("work")
            raise InputError("refused")

    with pytest.raises(InputError, match="refused"):
        fail()
    assert events == (["work", "everyone"] if is_main else ["everyone", "work"])


def test_where_the_main_process_failed_the_others_end_before_they_begin():
    accelerator, events = ranks_of(is_main=False, main_failed=True)
    with (
        pytest.raises(InputError, match="rank 0 cannot continue; its message says why"),
        main_process_first(accelerator),
    ):
        events.append("work")
    assert events == ["everyone"]


def test_the_main_process_says_that_it_failed_and_only_then():
    said: list[float] = []
    accelerator = fake(is_main_process=True, device=torch.device("cpu"))
    accelerator.reduce.side_effect = lambda value, _: said.append(float(value)) or value

    def fail() -> None:
        with main_process_first(accelerator):
            raise InputError("refused")

    with pytest.raises(InputError):
        fail()
    with main_process_first(accelerator):
        pass
    assert said == [1.0, 0.0]


@pytest.mark.parametrize("is_main", [True, False])
def test_one_rank_alone_holds_what_all_write(tmp_path, is_main):
    accelerator, events = ranks_of(is_main)
    with holding(accelerator, tmp_path / "out"):
        assert (tmp_path / "out" / LOCK).exists() == is_main
    with holding(accelerator, None):
        pass
    assert events == ["everyone"]
    assert list(tmp_path.iterdir()) == []
