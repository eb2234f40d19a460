"""Tests that training and validation are never silent for more than half a minute."""

from itertools import pairwise

import pytest

from video_vq.training.progress_line import ProgressLine


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock, is_shown: bool = True) -> ProgressLine:
    return ProgressLine(
        *("step", 100, 10), rate="clips", per_part=4, is_shown=is_shown, clock=clock
    )


def test_a_line_tells_how_far_it_is_the_rate_and_the_time_left(capsys):
    clock = Clock()
    line = made(clock)
    clock.now += 8
    line.look(11, at_once=True)
    assert capsys.readouterr().err == "step 11 of 100  0.50 clips per second  11:52 left\n"
    clock.now += 40
    line.look(31)  # the rate is that of the last steps, 2 s each
    assert capsys.readouterr().err == "step 31 of 100  2.00 clips per second  02:18 left\n"


@pytest.mark.parametrize("seconds", [0.1, 0.9, 7.0, 11.0, 14.9, 15.0])
def test_silence_lasts_at_most_thirty_seconds_and_lines_are_few(seconds, capsys):
    clock = Clock()
    line, said = made(clock), [clock.now]
    for step in range(11, 1011):
        clock.now += seconds
        line.look(step)
        if capsys.readouterr().err:
            said.append(clock.now)
    gaps = [after - before for before, after in pairwise(said)]
    assert max(gaps) <= 30 + 1e-6
    assert min(gaps) > 30 - 2 * seconds
    assert clock.now - said[-1] <= 30


def test_another_line_counts_and_what_is_no_part_of_it_is_left_out_of_the_rate(capsys):
    clock = Clock()
    line = made(clock)
    clock.now += 29
    line.restart(12)  # a line of the log
    clock.now += 3
    line.look(13)
    assert capsys.readouterr().err == ""
    clock.now += 600  # a validation
    line.restart(13)
    for step in (14, 15, 16):
        clock.now += 10
        line.look(step)
    assert capsys.readouterr().err == "step 16 of 100  0.40 clips per second  14:00 left\n"


@pytest.mark.parametrize("steps_per_save", [1, 2, 7])
def test_what_is_left_out_of_the_rate_is_still_silence(steps_per_save, capsys):
    clock = Clock()
    line, said = made(clock), [clock.now]
    for step in range(11, 211):
        clock.now += 2
        line.look(step)
        if text := capsys.readouterr().err:
            said.append(clock.now)
            assert "  2.00 clips per second  " in text
        if step % steps_per_save == 0:
            clock.now += 1  # a save
            line.leave_out()
    gaps = [after - before for before, after in pairwise(said)]
    assert len(gaps) > 10
    assert 30 - 2 * 3 < min(gaps) <= max(gaps) <= 31


def test_other_ranks_say_nothing_and_a_clock_that_stands_still_breaks_nothing(capsys):
    clock = Clock()
    line = made(clock, is_shown=False)
    clock.now += 100
    line.look(11, at_once=True)
    assert capsys.readouterr().err == ""
    made(clock).look(10, at_once=True)
    assert capsys.readouterr().err.startswith("step 10 of 100  ")
