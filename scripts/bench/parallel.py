"""Compares a masked and an autoregressive prior of one tokenizer by gFVD and sampling speed.

For each number of steps, samples are drawn with the same seeds into a separate store and scored
against the real clips. Speeds are those of the token sampler only, in CPU or GPU time, as medians
over interleaved rounds. Ratios are relative to the autoregressive prior. If the script is started
again, it reuses existing samples and scores. Example:

  video-vq train-prior --config demo/prior --tokens demo/tokens --out demo/masked model.kind=masked
  python scripts/bench/parallel.py --real demo/clips --tokenizer demo/tokenizer --prior demo/prior
      --masked demo/masked --out runs/parallel --steps 4 8 12 16 32 64
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from curve import Axis, Point, curve_picture
from long import moments
from measure import milliseconds

from video_vq.data.windows import Window, scoring_windows
from video_vq.errors import ConfigError, InputError
from video_vq.evaluation.feature_network import FeatureNetwork, load_feature_network
from video_vq.metrics.frechet import Moments, frechet_distance
from video_vq.metrics.protocol import DEFAULT_PROTOCOL
from video_vq.models.model_folder import read_tokenizer_identity
from video_vq.models.prior_config import ParallelSettings, SamplingSettings
from video_vq.models.priors import AnyPrior, load_prior, make_sampler
from video_vq.stages.sample_clips import sample_store
from video_vq.stages.sample_job import SampleJob
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import write_json

FRAMES = DEFAULT_PROTOCOL.num_frames or 16  # that FVD sees of longer clips
AUTOREGRESSIVE = "autoregressive"
GOALS = {"speed": 5.0, "gfvd": 1.15}  # to be reached together


def parallel(steps: int | None, arguments: argparse.Namespace) -> ParallelSettings | None:
    """Return the settings of a masked prior's sampler; None for the autoregressive one."""
    return None if steps is None else ParallelSettings(steps, arguments.confidence_temperature)


def gfvd(
    steps: int | None,
    arguments: argparse.Namespace,
    accelerator: Accelerator,
    real: Moments,
    network: FeatureNetwork,
) -> float:
    """Return the FVD of samples against the real clips; store the samples and the FVD for reuse."""
    name = AUTOREGRESSIVE if steps is None else f"steps-{steps}"
    job = SampleJob(
        prior=arguments.prior if steps is None else arguments.masked,
        tokenizer=arguments.tokenizer,
        out=arguments.out / name,
        num_samples=arguments.num,
        batch_size=arguments.batch_sizes[-1],
        settings=SamplingSettings(guidance=arguments.guidance),
        parallel=parallel(steps, arguments),
    )
    store = sample_store(accelerator, job)
    asked = {"samples": store.content_hash, "real": real_key(arguments), "network": network.sha256}
    path = arguments.out / f"{name}.json"
    if path.exists() and (known := json.loads(path.read_text())).items() >= asked.items():
        return float(known["gfvd"])
    length = min(FRAMES, store.videos[0].num_frames)
    windows = [Window(place, 0, length, 1) for place in range(len(store.videos))]
    value = frechet_distance(real, moments(store, windows, network), DEFAULT_PROTOCOL.ddof)
    write_json(path, {**asked, "gfvd": value})
    print(f"{name}: gFVD {value:.1f}", file=sys.stderr)
    return value


def real_key(arguments: argparse.Namespace) -> list[Any]:
    """Return the content hash and the settings that determine the real clips."""
    return [ClipStore(arguments.real).content_hash, arguments.split, arguments.num_real]


def clips_per_second(
    priors: dict[str, AnyPrior],
    plan: list[int | None],
    batch: int,
    arguments: argparse.Namespace,
) -> list[float]:
    """Return the clips per second of each sampler in `plan`, as medians over interleaved rounds."""
    works = []
    for steps in plan:
        prior = priors[AUTOREGRESSIVE if steps is None else "masked"]
        settings = SamplingSettings(guidance=arguments.guidance)
        sampler = make_sampler(prior, settings, parallel(steps, arguments), batch, torch.float32)
        classes = prior.config.num_classes
        labels = torch.arange(batch) % classes if classes else None
        sampler.draw(range(batch), labels)  # packs the weights, and finds the padding
        works.append(lambda sampler=sampler, labels=labels: sampler.draw(range(batch), labels))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    times: list[list[float]] = [[] for _ in works]
    for _ in range(arguments.rounds):
        for work, taken in zip(works, times, strict=True):
            taken.append(milliseconds(work, device))
    return [1000 * batch / statistics.median(taken) for taken in times]


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row for the autoregressive prior and one for each number of steps.

    Raises:
        InputError: a prior is of the wrong kind or takes actions, or models and data do not match.
    """
    accelerator = Accelerator()
    priors = {
        AUTOREGRESSIVE: load_prior(arguments.prior, device=accelerator.device),
        "masked": load_prior(arguments.masked, device=accelerator.device),
    }
    for name, prior in priors.items():
        if prior.predicts != name:
            raise InputError(
                f"the prior named as {name} is {prior.predicts}; swap --prior and --masked"
            )
        if prior.config.num_action_dims:
            raise InputError("these priors take actions, and this comparison gives none")
    network = load_feature_network(arguments.network, accelerator.device)
    real, facts = ClipStore(arguments.real), read_tokenizer_identity(arguments.tokenizer).facts
    windows = scoring_windows(
        *(real, arguments.split, min(FRAMES, facts.num_frames), facts.stride),
        *(arguments.num_real, 0),
    )
    of_real = moments(real, windows, network)
    plan: list[int | None] = [None, *sorted(arguments.steps)]
    speeds = {
        batch: clips_per_second(priors, plan, batch, arguments) for batch in arguments.batch_sizes
    }
    values = [gfvd(steps, arguments, accelerator, of_real, network) for steps in plan]
    return [
        {
            "steps": steps,
            "gfvd": value,
            "gfvd_ratio": value / values[0],
            "clips_per_second": {batch: each[place] for batch, each in speeds.items()},
            "speed_ratio": {batch: each[place] / each[0] for batch, each in speeds.items()},
        }
        for place, (steps, value) in enumerate(zip(plan, values, strict=True))
    ]


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the rows."""
    batches = list(rows[0]["speed_ratio"])
    heads = ["steps", "gFVD", "ratio", *(f"clips/s, batch {b} | ratio" for b in batches)]
    lines = [f"| {' | '.join(heads)} |", "|---" * (3 + 2 * len(batches)) + "|"]
    for row in rows:
        name = AUTOREGRESSIVE if row["steps"] is None else row["steps"]
        speeds = " | ".join(
            f"{row['clips_per_second'][batch]:.3g} | {row['speed_ratio'][batch]:.2f}x"
            for batch in batches
        )
        lines.append(f"| {name} | {row['gfvd']:.1f} | {row['gfvd_ratio']:.3f}x | {speeds} |")
    return "\n".join(lines)


def picture(rows: list[dict[str, Any]]) -> str:
    """Return an SVG: gFVD over clips per second, both relative to the autoregressive prior."""
    curves = {"autoregressive": [Point(1.0, 1.0, "")]}
    for batch in rows[0]["speed_ratio"]:
        curves[f"masked, by steps, batch {batch}"] = [
            Point(row["speed_ratio"][batch], row["gfvd_ratio"], str(row["steps"]))
            for row in rows[1:]
        ]
    x = Axis("clips a second, times the autoregressive prior's", True, ((GOALS["speed"], "5 x"),))
    y = Axis("gFVD, times the autoregressive prior's", False, ((GOALS["gfvd"], "1.15 x"),))
    return curve_picture(curves, x, y, "Several tokens a step: quality against speed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, required=True, help="a clip store of real videos")
    parser.add_argument("--split", default="test")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--prior", type=Path, required=True, help="the autoregressive prior")
    parser.add_argument("--masked", type=Path, required=True, help="the masked prior")
    parser.add_argument("--out", type=Path, required=True, help="folder of samples and results")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 12, 16, 32, 64])
    parser.add_argument("--confidence-temperature", type=float, default=4.5)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--num", type=int, default=256, help="samples of each prior")
    parser.add_argument("--num-real", type=int, default=2048, help="largest number of real clips")
    parser.add_argument(
        "--batch-sizes",
        type=int,
        nargs="+",
        default=[1, 16],
        help="numbers of clips that are drawn at a time; the last one also draws those of gFVD",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--network", help="module:function instead of I3D")
    arguments = parser.parse_args()
    try:
        rows = measure(arguments)
    except (ConfigError, InputError) as error:
        sys.exit(f"parallel.py: {error}")
    write_json(arguments.out / "parallel.json", {"rows": rows})
    (arguments.out / "parallel.svg").write_text(picture(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
