"""The plan of a study: its runs, their order, and the commands of each."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import Field, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

from video_vq.config import STRICT

Settings = tuple[str, ...]
TUNING = "tuning"  # parts with this prefix choose learning rates and are not scored


@dataclass(frozen=True, config=STRICT)
class World:
    """A data set and the models that are trained on it.

    Attributes:
        make: commands that make the clip store, in which {raw} and {clips} stand for the paths of
            raw videos and of the store.
        tokenizer: config of the tokenizer.
        prior: config of the prior.
        tokenizer_settings: settings that all tokenizers of the study share.
        prior_settings: settings that all priors of the study share.
        hop: number of frames from the start of one encoded window to the start of the next.
        sampling: options of `video-vq sample`.
        num: number of test clips and of samples that are scored.
    """

    make: tuple[str, ...]
    tokenizer: str
    prior: str
    tokenizer_settings: Settings
    prior_settings: Settings
    hop: int
    sampling: Settings
    num: int


@dataclass(frozen=True, config=STRICT)
class Part:
    """A block of the plan, which covers every combination of its lists.

    Attributes:
        world: name of the world.
        regimes, optimizers, arms: names of the regimes, optimizers and arms.
        seeds: seeds of the weights, the order of the data, the restarts, the prior and the
            samples; runs with the same seed are paired.
        rates: learning rates of the tokenizer; or "tuned" for the rate that was best on the val
            split in the parts named "tuning…", for each regime, optimizer and arm.
        last: last model to train; "prior" also makes tokens and samples. Scores follow, except in
            parts named "tuning…".
    """

    name: str
    world: str
    regimes: tuple[str, ...]
    optimizers: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    rates: tuple[float, ...] | Literal["tuned"] = "tuned"
    last: Literal["tokenizer", "prior"] = "prior"


@dataclass(frozen=True, config=STRICT)
class Plan:
    """A study, as written down before its first run.

    Attributes:
        question: the question to answer.
        endpoint: the measure that answers it.
        analysis: the method of comparing the numbers.
        reference: the arm that all others are compared with.
        unquantized: arms without codes, which have no prior.
        precision: precision of all training runs, as Accelerate names it.
        worlds, regimes, optimizers, arms: definitions by name; all but the worlds are settings of
            the tokenizer.
        parts: the blocks, in the order in which they are run.
    """

    question: str
    endpoint: str
    analysis: str
    reference: str
    unquantized: tuple[str, ...]
    precision: Literal["no", "bf16"]
    worlds: Mapping[str, World]
    regimes: Mapping[str, Settings]
    optimizers: Mapping[str, Settings]
    arms: Mapping[str, Settings]
    parts: tuple[Part, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_known(self) -> "Plan":
        for part in self.parts:
            for kind, names, known in (
                ("world", (part.world,), self.worlds),
                ("regime", part.regimes, self.regimes),
                ("optimizer", part.optimizers, self.optimizers),
                ("arm", part.arms, self.arms),
            ):
                if unknown := sorted(set(names) - known.keys()):
                    raise ValueError(f"part {part.name!r}: no such {kind}: {', '.join(unknown)}")
        return self


class Run(NamedTuple):
    """One run of the plan: a tokenizer and, if the part includes it, its prior."""

    part: str
    world: str
    regime: str
    optimizer: str
    arm: str
    seed: int
    rate: float | None
    last: Literal["tokenizer", "prior"]

    @property
    def name(self) -> str:
        """Return a unique name for the run, suitable for a folder."""
        rate = "tuned" if self.rate is None else f"{self.rate:g}"
        return "-".join(
            (self.part, self.world, self.regime, self.optimizer, self.arm, rate, str(self.seed))
        )


class Step(NamedTuple):
    """One command of a run.

    Attributes:
        command: arguments of `video-vq`.
        made: file or folder that exists once the command has finished.
    """

    command: tuple[str, ...]
    made: Path


def read_plan(path: Path) -> Plan:
    """Return the plan in a YAML file."""
    return TypeAdapter(Plan).validate_json(json.dumps(yaml.safe_load(path.read_text())))


def runs_of(plan: Plan) -> Iterator[Run]:
    """Yield the runs, part by part and seed by seed, so that pairs are complete early."""
    for part in plan.parts:
        rates = (None,) if part.rates == "tuned" else part.rates
        for seed, regime, optimizer, arm, rate in itertools.product(
            part.seeds, part.regimes, part.optimizers, part.arms, rates
        ):
            last = "tokenizer" if arm in plan.unquantized else part.last
            yield Run(part.name, part.world, regime, optimizer, arm, seed, rate, last)


def tuned_rate(run: Run, results: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the rate of the tuning run with the best validation PSNR.

    Args:
        run: a run whose rate has to be chosen.
        results: all results so far; those of tuning runs count if they share the run's regime,
            optimizer and arm.

    Returns:
        The rate; None until such a tuning run has finished.
    """
    of_arm = [
        (result["validation_psnr"], result["rate"])
        for result in results
        if result["part"].startswith(TUNING)
        and result["status"] == "finished"
        and all(result[key] == getattr(run, key) for key in ("regime", "optimizer", "arm"))
    ]
    return max(of_arm)[1] if of_arm else None


def steps_of(plan: Plan, run: Run, rate: float, clips: Path, folder: Path) -> list[Step]:
    """Return the commands of a run, in order.

    Args:
        plan: the plan.
        run: the run.
        rate: learning rate of its tokenizer.
        clips: the world's clip store.
        folder: folder for everything that the run makes.
    """
    world = plan.worlds[run.world]
    tokenizer, tokens, prior = folder / "tokenizer", folder / "tokens", folder / "prior"
    samples, scores = folder / "samples", folder / "scores"
    settings = (
        *world.tokenizer_settings,
        *plan.regimes[run.regime],
        *plan.optimizers[run.optimizer],
        *plan.arms[run.arm],
        f"optim.lr={rate}",
        f"run.seed={run.seed}",
    )
    train = ("train-tokenizer", "--config", world.tokenizer, "--data", str(clips))
    steps = [Step((*train, "--out", str(tokenizer), *settings), tokenizer / "tokenizer")]
    evaluate = ("evaluate", "--data", str(clips), "--tokenizer", str(tokenizer))
    evaluate = (*evaluate, "--num", str(world.num), "--out", str(scores))
    if run.last == "prior":
        encode = ("encode", str(clips), "--tokenizer", str(tokenizer), "--out", str(tokens))
        learn = ("train-prior", "--config", world.prior, "--tokens", str(tokens))
        learn = (*learn, "--out", str(prior), *world.prior_settings, f"run.seed={run.seed}")
        sample = ("sample", "--prior", str(prior), "--tokenizer", str(tokenizer))
        sample = (*sample, "--out", str(samples), "--num", str(world.num))
        sample = (*sample, "--seed", str(run.seed), *world.sampling)
        steps += [
            Step((*encode, "--hop", str(world.hop)), tokens / "manifest.json"),
            Step(learn, prior / "prior"),
            Step(sample, samples / "manifest.json"),
        ]
        evaluate += ("--samples", str(samples), "--tokens", str(tokens), "--prior", str(prior))
    if not run.part.startswith(TUNING):
        steps.append(Step(evaluate, scores / "scores.json"))
    return steps
