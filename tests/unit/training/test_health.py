"""Tests that a loss jump or a collapse warns once, and that noise does not warn."""

import json
import random

import pytest

from video_vq.config import check_config, to_json
from video_vq.errors import InputError
from video_vq.training.health import MIN_LOGS, Health


def settled(loss: float = 1.0, logs: int = 30) -> Health:
    """Return the health of a run whose loss fluctuates around a value."""
    health, rng = Health.at_start(), random.Random(0)
    for _ in range(logs):
        assert health.look(rng.gauss(loss, 0.05 * loss), usage=0.5) == []
    return health


def test_a_jump_of_the_loss_warns_once_and_says_what_to_try():
    health = settled()
    (warning,) = health.look(10.0)
    assert "the loss jumped to 10, from " in warning
    assert "lower optim.lr" in warning
    assert health.numbers() == {"warnings/loss_spikes": 1, "warnings/collapses": 0}
    assert health.look(1.0) == []


@pytest.mark.parametrize("seed", range(20))
def test_noise_and_a_falling_loss_do_not_warn(seed):
    health, rng = Health.at_start(), random.Random(seed)
    for step in range(300):
        assert health.look(rng.lognormvariate(0, 0.1) * (1 + 5 * 0.98**step)) == []


def test_the_first_logs_and_what_is_not_finite_do_not_warn():
    health = Health.at_start()
    for log in range(MIN_LOGS):
        assert health.look(10.0**log, usage=0.0) == []
    health = settled()
    mean = health.mean
    assert health.look(float("nan")) == health.look(float("inf")) == []
    assert health.mean == mean


def test_a_collapse_warns_once_until_it_is_over():
    health = settled()
    warnings = [health.look(1.0, usage) for usage in (0.01, 0.01, 0.5, 0.04, 0.06)]
    assert [len(found) for found in warnings] == [1, 0, 0, 1, 0]
    assert "the codebook collapses: 1.00% of the codes are in use" in warnings[0][0]
    assert health.collapses == 2
    # So few tokens could not have used more.
    assert health.look(1.0, usage=0.04, possible=0.05) == []


def test_it_goes_on_from_json_as_if_it_had_not_stopped():
    whole = settled()
    resumed = check_config(Health, json.loads(json.dumps(to_json(whole))), "state")
    assert resumed == whole
    for loss, usage in [(1.02, 0.5), (9.0, 0.01), (1.0, 0.01), (1.0, 0.5), (1.0, 0.01)]:
        assert resumed.look(loss, usage) == whole.look(loss, usage)
    assert resumed == whole
    assert resumed.numbers() == {"warnings/loss_spikes": 1, "warnings/collapses": 2}


@pytest.mark.parametrize("field", ["loss_spikes", "logs", "mean", "square", "is_collapsed"])
@pytest.mark.parametrize("value", [None, "1", -1, [], "absent"])
def test_what_is_not_a_health_is_refused(field, value):
    if (field, value) == ("mean", -1):
        return  # a loss may be negative
    described = {**to_json(settled()), field: value}
    if value == "absent":
        del described[field]
    with pytest.raises(InputError, match=field):
        check_config(Health, described, "state")
