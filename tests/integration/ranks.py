"""Cases of test_ranks.py, which several ranks run in one launch, as a launch takes seconds.

Usage: `accelerate launch --multi_gpu --num_processes N ranks.py FOLDER CASE…`, or, with forked
ranks and faster, `ranks.py N FOLDER CASE…`. FOLDER/given contains the data; the results are written
to FOLDER/N.
"""

import hashlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from observed import observing
from runs import SMALL_PRIOR, SMALL_TOKENIZER, make_clip_store

from video_vq.cli import main
from video_vq.config import load_config
from video_vq.data.clip_config import ClipConfig
from video_vq.data.windows import EpochClips
from video_vq.distributed import holding, make_accelerator
from video_vq.errors import InputError
from video_vq.models.prior import Prior
from video_vq.models.prior_config import PriorConfig
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stores.clips import ClipStore
from video_vq.stores.lock import LOCK
from video_vq.stores.tokens import TokenHeader, TokenStore, TokenStoreWriter
from video_vq.training import losses as losses_module
from video_vq.training import prior as prior_module
from video_vq.training import tokenizer as tokenizer_module
from video_vq.training.averaging import Averages
from video_vq.training.distributed import StopFlag
from video_vq.training.state import TrainingState
from video_vq.training.stop_request import StopRequest
from video_vq.training.training_config import (
    PriorTrainingConfig,
    RunConfig,
    TokenizerTrainingConfig,
)

Kind = Literal["tokenizer", "prior"]
KINDS: tuple[Kind, ...] = ("tokenizer", "prior")
ACCUMULATIONS = (1, 2, 4)
SIZES = (1, 2, 3, 7, 10, 13, 101)
# Adam divides a gradient by its size, so `eps` keeps rounding errors from causing full steps.
PARITY = (
    "optim.eps=1e-6 optim.steps=30 optim.batch_size=8 run.log_every=5 run.validate_every=15 "
    "run.checkpoint_every=30 run.validation_clips=20"
)
NO_DROPOUT = "model.dropout=0.0 model.condition_dropout=0.0"
# Every part of a step: micro-batches, dropout, restarts, a discriminator that joins later.
RECORDED_OF_BOTH = ("optim.kind=adamw", "optim.accumulation=2", "optim.batch_size=8")
RECORDED = {
    "tokenizer": "loss.adversarial.weight=0.1 loss.adversarial.channels=8 "
    "loss.adversarial.levels=2 loss.adversarial.start=2 loss.adversarial.warmup_steps=3 "
    "model.quantizer.restart_threshold=0.9",
    "prior": "model.dropout=0.1 model.condition_dropout=0.3",
}
# What the latents and their gradients can be made of, with a codebook that comes late.
OF_LATENTS = {
    "late": "continuous_steps=3 run.measure_gradients=true "
    "model.quantizer.estimator=rotation_blended model.quantizer.rms_scaling=constant "
    "model.quantizer.tangential_commitment=true",
    "second_pass": "optim.accumulation=2 model.quantizer.estimator=exact_gradient",
}
BAD_STEPS = {3: torch.nan, 5: torch.inf, 6: -torch.inf}


def make_data(folder: Path) -> None:
    """Write configs, and a clip and a token store with over a hundred validation items each."""
    clips = make_clip_store(folder / "given" / "clips", num_frames=24)
    given(folder, "tokenizer").write_text(SMALL_TOKENIZER)
    given(folder, "prior").write_text(SMALL_PRIOR)
    header = TokenHeader(
        tokenizer_hash="0" * 64,
        codebook_size=32,
        grid_thw=(2, 4, 4),
        num_frames=4,
        frame_size_hw=(16, 16),
        fps=10.0,
        classes=("left", "right"),
        data_hash=clips.content_hash,
        made_by={},
    )
    writer = TokenStoreWriter(folder / "given" / "tokens", header)
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(len(clips.videos)), 20)
    # Low codes are more likely, so that there is something to learn.
    tokens = np.minimum(rng.integers(32, size=(len(videos), 2, 4, 4)), rng.integers(32))
    rows = np.stack([videos, np.tile(np.arange(20), len(clips.videos)), videos * 0 + 1], axis=1)
    writer.write_shard(0, tokens, rows)
    writer.finish(1, clips.videos)


def given(folder: Path, kind: Kind) -> Path:
    """Return the path of the config for a kind of model."""
    return folder / "given" / f"{kind}.yaml"


def settings(kind: Kind, *changes: str) -> list[str]:
    """Return settings as command-line arguments; those of a prior also switch off dropout."""
    if kind == "prior":
        changes = (*changes, NO_DROPOUT)
    return [setting for change in changes for setting in change.split()]


def arguments(kind: Kind, folder: Path, out: Path, *more: str) -> list[str]:
    """Return the command-line arguments of a training run."""
    data = ["--data", "clips"] if kind == "tokenizer" else ["--tokens", "tokens"]
    data[1] = str(folder / "given" / data[1])
    return [f"train-{kind}", "--config", str(given(folder, kind)), *data, "--out", str(out), *more]


def train(
    kind: Kind,
    folder: Path,
    out: Path,
    changes: Sequence[str],
    request: StopRequest | None = None,
) -> TrainingState:
    """Train in this process inside `observing()`, and return the final state."""
    states: list[TrainingState] = []

    class Kept(TrainingState):
        def __init__(self, *values: Any):
            super().__init__(*values)
            states.append(self)

    with mock.patch("video_vq.training.loop.TrainingState", Kept), observing():
        if kind == "tokenizer":
            config = load_config(TokenizerTrainingConfig, given(folder, kind), changes)
            tokenizer_module.train_tokenizer(config, folder / "given/clips", out, request=request)
        else:
            config = load_config(PriorTrainingConfig, given(folder, kind), changes)
            prior_module.train_prior(config, folder / "given/tokens", out, request=request)
    return states[0]


def parity(folder: Path, out: Path) -> None:
    """Train for 30 steps with equal global batches, split into 1, 2 and 4 micro-batches.

    Each rank records the number of items in each of its validation batches.
    """
    rank = make_accelerator().process_index
    for kind in KINDS:
        for accumulation in ACCUMULATIONS:
            changes = settings(kind, PARITY, f"optim.accumulation={accumulation}")
            name = f"{kind}-{accumulation}"
            with validated_sizes(kind) as sizes:
                train(kind, folder, out / name, changes)
            (out / f"{name}-validated-rank{rank}.json").write_text(json.dumps(sizes))


@contextmanager
def validated_sizes(kind: Kind) -> Iterator[list[int]]:
    """Yield a list to which the number of items in each scored batch is appended."""
    module = tokenizer_module if kind == "tokenizer" else prior_module
    real, sizes = module.functional_call, []

    def noted(model: Any, weights: Any, arguments: tuple[Any, ...]) -> Any:
        sizes.append(len(arguments[0]))
        return real(model, weights, arguments)

    with mock.patch.object(module, "functional_call", noted):
        yield sizes


def recorded_config(kind: Kind, folder: Path) -> TokenizerTrainingConfig | PriorTrainingConfig:
    """Return the config with which the steps are recorded."""
    of = TokenizerTrainingConfig if kind == "tokenizer" else PriorTrainingConfig
    return load_config(of, given(folder, kind), [*RECORDED_OF_BOTH, *RECORDED[kind].split()])


def recorded(folder: Path, out: Path) -> None:
    """Train both kinds of model for six steps with the recorded configs."""
    for kind in KINDS:
        train(kind, folder, out / f"{kind}-recorded", [*RECORDED_OF_BOTH, *RECORDED[kind].split()])


def of_latents(folder: Path, out: Path) -> None:
    """Train for six steps with each entry of OF_LATENTS; each rank hashes its averaged weights."""
    for name, more in OF_LATENTS.items():
        changes = settings("tokenizer", PARITY, "optim.steps=6 run.log_every=1", more)
        state = train("tokenizer", folder, out / name, changes)
        digest = hashlib.sha256()
        for _, value in sorted(state.averages.tensors.items()):
            digest.update(value.numpy().tobytes())
        rank = state.accelerator.process_index
        (out / f"{name}-rank{rank}").write_text(digest.hexdigest())


def validation(folder: Path, out: Path) -> None:
    """Validate both kinds of model on various numbers of items; each rank records all scores."""
    accelerator = make_accelerator()
    clips, tokens = ClipStore(folder / "given/clips"), TokenStore(folder / "given/tokens")
    torch.manual_seed(0)
    config = load_config(TokenizerTrainingConfig, given(folder, "tokenizer"), [])
    tokenizer = VideoTokenizer(config.model)
    windows = EpochClips(clips, "val", ClipConfig(4, windows="all", hop=1), seed=0).all()
    with torch.no_grad():
        tokenizer.state_dict()["quantizer.codebook.codes"].normal_(std=0.3)
    sizes = load_config(PriorTrainingConfig, given(folder, "prior"), []).model
    prior = Prior(PriorConfig(32, (2, 4, 4), 2, 0, sizes))
    with torch.no_grad():
        prior.head.weight.normal_(std=0.3)
    rows, found = tokens.rows("val"), {}
    for number in SIZES:
        assert len(windows) >= number
        assert len(rows) >= number
        stop = StopFlag(accelerator, out, None)
        averages = Averages(tokenizer, RunConfig()).tensors
        scores = tokenizer_module.score(
            accelerator, tokenizer, averages, clips, windows[:number], 4, stop
        )
        averages = Averages(prior, RunConfig()).tensors
        bits = prior_module.score(
            accelerator, prior, averages, tokens, rows[:number].tolist(), 4, stop
        )
        assert scores is not None
        assert bits is not None
        found[number] = {**scores._asdict(), "bits_per_token": bits}
    # Each rank has the scores over all ranks.
    (out / f"validation-rank{accelerator.process_index}.json").write_text(json.dumps(found))


def poisoned(bad: dict[int, float] | range) -> Callable[..., Any]:
    """Return a function that patches a loss so that some values on the last rank are not finite."""
    accelerator, patches = make_accelerator(), mock.patch.multiple
    calls = {"tokenizer": 0, "prior": 0}
    is_last = accelerator.process_index == accelerator.num_processes - 1

    def spoil(kind: str, loss: torch.Tensor) -> torch.Tensor:
        calls[kind] += 1
        if not is_last or calls[kind] not in bad:
            return loss
        if isinstance(bad, range):
            return loss * torch.nan
        # An infinite value alone leaves the gradient finite, and the other rank unaware.
        value = bad[calls[kind]]
        return loss * value if value != value else loss + value

    reconstruction, nats = losses_module.reconstruction_loss, prior_module.prior_loss

    def reconstruction_loss(*values: Any) -> torch.Tensor:
        return spoil("tokenizer", reconstruction(*values))

    def prior_loss(*values: Any) -> Any:
        loss = nats(*values)
        return loss._replace(nats=spoil("prior", loss.nats))

    def patch(kind: Kind) -> Any:
        if kind == "tokenizer":
            return patches(losses_module, reconstruction_loss=reconstruction_loss)
        return patches(prior_module, prior_loss=prior_loss)

    return patch


def poison(folder: Path, out: Path) -> None:
    """Train with a non-finite loss on one rank at some steps; each rank records its results."""
    patch = poisoned(BAD_STEPS)
    for kind in KINDS:
        with patch(kind):
            changes = settings(kind, "optim.steps=10 run.log_every=1")
            state = train(kind, folder, out / f"{kind}-poison", changes)
        digest = hashlib.sha256()
        for name, value in sorted(state.averages.tensors.items()):
            assert torch.isfinite(value).all(), name
            digest.update(value.numpy().tobytes())
        facts = {"skipped": state.skipped_steps, "sha256": digest.hexdigest()}
        rank = state.accelerator.process_index
        (out / f"{kind}-poison-rank{rank}.json").write_text(json.dumps(facts))


def start(command: Sequence[str]) -> int:
    """Run a command in connected ranks without the early check of the lock.

    Rank 0 may already hold the lock when rank 1 checks; separately started ranks connect only after
    the check.
    """
    with mock.patch("video_vq.cli.training_verbs.require_free"):
        return main(command)


def more_ranks(folder: Path, out: Path) -> None:
    """Resume single-rank runs on more ranks, which fails without `--allow-change world_size`."""
    for kind in KINDS:
        changes = settings(kind)
        command = arguments(kind, folder, out / f"{kind}-begun")
        assert start([*command, *changes]) == 1
        with observing():
            assert start([*command, "--allow-change", "world_size", *changes]) == 0


def second_start(folder: Path, out: Path) -> None:
    """Start in a folder that another process has locked, and check that all ranks are refused.

    The refusal comes from the early check or, without the check, when rank 0 tries to acquire the
    lock; the ranks can still communicate afterwards.
    """
    accelerator = make_accelerator()
    command = arguments("prior", folder, out / "held", *settings("prior"))
    assert main(command) == 1
    assert start(command) == 1
    refusal = ""
    try:
        with holding(accelerator, out / "held"):
            pass
    except InputError as error:
        refusal = str(error)
    (out / f"refusal-rank{accelerator.process_index}").write_text(refusal)
    assert {entry.name for entry in (out / "held").iterdir()} == {LOCK}


def diverge(folder: Path, out: Path) -> int:
    """Train with a non-finite loss on one rank from step 13 on; return the exit status."""
    with poisoned(range(13, 100))("prior"):
        changes = settings("prior", "optim.steps=40")
        return start(arguments("prior", folder, out / "diverged", *changes))


def run_cases(folder: Path, cases: Sequence[str]) -> int:
    """Run cases as one of the ranks; return the last case's exit status."""
    torch.set_num_threads(1)
    results = folder / str(make_accelerator().num_processes)
    return [globals()[case](folder, results) for case in cases][-1] or 0


def fork(processes: int, folder: Path, cases: Sequence[str]) -> int:
    """Run cases in forked ranks; return whether any rank failed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    os.environ |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port)}
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            sys.exit(run_cases(folder, cases))
        children.append(child)
    return any(os.waitpid(child, 0)[1] for child in children)


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        sys.exit(fork(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
    sys.exit(run_cases(Path(sys.argv[1]), sys.argv[2:]))
