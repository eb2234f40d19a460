"""Long test that memory and open files stay constant in twenty minutes of the demo's training."""

import sys
import time
from pathlib import Path

import psutil
import pytest
from runs import environment, make_clip_store

MINUTES = 20
WARM_UP_MINUTES = 3  # allocators, first checkpoint, first validation


@pytest.mark.slow
def test_memory_and_file_descriptors_do_not_grow(tmp_path):
    make_clip_store(tmp_path / "clips", num_frames=32)
    command = [
        *(sys.executable, "-m", "video_vq", "train-tokenizer", "--config", "demo/tokenizer"),
        *("--data", str(tmp_path / "clips"), "--out", str(tmp_path / "run")),
        *("optim.steps=1000000", "run.checkpoint_every=100", "run.validate_every=100"),
    ]
    with open(tmp_path / "log", "w") as log:
        process = psutil.Popen(command, env=environment(), stdout=log, stderr=log)
        try:
            samples = watch(process)
        finally:
            process.terminate()
            assert process.wait(120) == 0
    warm = [sample for sample in samples if sample[0] >= 60 * WARM_UP_MINUTES]
    first, last = warm[: len(warm) // 5], warm[-len(warm) // 5 :]
    memory = [sum(sample[1] for sample in part) / len(part) for part in (first, last)]
    growth = memory[1] / memory[0] - 1
    print(f"memory {memory[0]:.0f} to {memory[1]:.0f} MiB: {growth:+.1%}; {len(samples)} samples")
    assert growth < 0.05
    # One more is open for a moment while a checkpoint or a line of metrics is written.
    descriptors = [min(sample[2] for sample in part) for part in (first, last)]
    assert descriptors[0] == descriptors[1]
    assert "stopped after step" in Path(tmp_path / "log").read_text()


def watch(process: psutil.Popen) -> list[tuple[float, float, int]]:
    """Return samples taken every 5 s during training.

    Each contains the seconds so far, the memory of the trainer and its workers in MiB, and the
    trainer's number of file descriptors.
    """
    started, samples = time.monotonic(), []
    while (seconds := time.monotonic() - started) < 60 * MINUTES:
        time.sleep(5)
        assert process.poll() is None
        family = [process, *process.children(recursive=True)]
        memory = sum(member.memory_full_info().uss for member in family)
        samples.append((seconds, memory / 2**20, process.num_fds()))
    return samples
