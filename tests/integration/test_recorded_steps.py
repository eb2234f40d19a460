"""Tests of six training steps against a plain implementation and recorded results."""

import json
from pathlib import Path

import pytest
import recorded
import torch
from plain_steps import Plain, prior_steps, tokenizer_steps
from ranks import KINDS, Kind, recorded_config

from video_vq.stores.clips import ClipStore
from video_vq.stores.tokens import TokenStore
from video_vq.training.training_config import PriorTrainingConfig, TokenizerTrainingConfig

KNOWN = json.loads(recorded.FILE.read_text())


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return the folder of both trainings on one and on two ranks."""
    folder = tmp_path_factory.mktemp("recorded")
    recorded.make_runs(folder)
    return folder


def plain(kind: Kind, folder: Path, world: int) -> Plain:
    config = recorded_config(kind, folder)
    if isinstance(config, TokenizerTrainingConfig):
        return tokenizer_steps(config, ClipStore(folder / "given" / "clips"), world)
    assert isinstance(config, PriorTrainingConfig)
    return prior_steps(config, TokenStore(folder / "given" / "tokens"), world)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_takes_the_steps_that_are_written_out_plainly_bit_for_bit(folder, kind, world):
    run = folder / str(world) / f"{kind}-recorded"
    expected, found = plain(kind, folder, world), recorded.tensors(run)
    assert found.keys() - expected.tensors.keys() == {"usage"}
    for file, tensors in expected.tensors.items():
        assert found[file].keys() == tensors.keys(), file
        for name, value in tensors.items():
            assert torch.equal(found[file][name], value), (file, name)
    logged = [line for line in recorded.log_without_times(run) if "optim/lr" in line]
    assert [line["step"] for line in logged] == [2, 4, 6]
    for line in logged:
        losses = {name[5:]: value for name, value in line.items() if name.startswith("loss/")}
        assert losses == expected.losses[line["step"]]
    if kind == "tokenizer":
        assert sum(line["codebook/restarted"] for line in logged) > 0


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_six_steps_leave_what_was_recorded(folder, kind, world):
    machine = recorded.machine()
    if machine not in KNOWN["digests"]:
        pytest.skip(f"nothing is recorded for {machine}; the plain steps above are the proof here")
    expected = KNOWN["digests"][machine][f"{kind} on {world}"]
    assert recorded.digests(folder / str(world) / f"{kind}-recorded") == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_has_the_names_and_shapes_that_earlier_ones_have(folder, kind):
    """If a name changed, runs with earlier checkpoints could not be resumed."""
    assert recorded.names(folder / "2" / f"{kind}-recorded") == KNOWN["names"][kind]
