"""Measures the seams and the drift of samples that are longer than a clip.

Seams are measured by two ratios: the mean change between frames where a window of the prior begins,
divided by that where other latent frames begin; and the mean change where any latent frame begins,
divided by that inside latent frames. The second ratio is also computed for real videos. Drift is
the FVD of each second of all samples against real clips of the same length; seconds with fewer
frames than --least are extended. FVD depends on the number of samples, so compare it only between
seconds of the same store. Example:

  video-vq sample --prior p --tokenizer t --out long --seconds 60 --num 64
  python scripts/bench/long.py long --tokenizer t --real clips --out runs/long
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from curve import Axis, Point, curve_picture

from video_vq.data.loader import read_windows
from video_vq.data.windows import Window, scoring_windows
from video_vq.errors import ConfigError, InputError
from video_vq.evaluation.feature_network import FeatureNetwork, load_feature_network
from video_vq.metrics.frechet import Moments, frechet_distance
from video_vq.metrics.fvd import DEFAULT_PROTOCOL, clip_features
from video_vq.metrics.motion import boundary_change_per_clip, latent_starts
from video_vq.models.model_folder import TokenizerIdentity, read_tokenizer_identity
from video_vq.stages.sample_length import SampleLength, length_of_latents
from video_vq.stores.clips import ClipStore

AT_ONCE = 16  # clips in memory


class Seams(NamedTuple):
    """Ratios of mean changes between frames, averaged over videos; None if no ratio is finite.

    Attributes:
        windows: change where a window begins, relative to other latent frames.
        latents: change where a latent frame begins, relative to the frames inside it.
    """

    windows: float | None
    latents: float | None


def length_of(samples: ClipStore, tokenizer: TokenizerIdentity) -> SampleLength:
    """Return the length of a store's samples, and the windows of which they consist.

    Raises:
        InputError: the store holds no long samples of this tokenizer.
    """
    plan, config = samples.plan, tokenizer.config
    if plan.get("tokenizer") != tokenizer.hash or "seconds" not in plan:
        raise InputError(
            f"{samples.path}: holds no samples of `video-vq sample --seconds` by this tokenizer"
        )
    stride_t = config.backbone.total_stride_thw[0]
    num_latents = 1 + (samples.videos[0].num_frames - 1) // stride_t
    return length_of_latents(num_latents, config, tokenizer.facts, plan.get("window_stride"))


def window_starts(length: SampleLength, frames_per_latent: int) -> list[int]:
    """Return the first frame that each window after the first adds."""
    latents = range(length.window, length.num_latents, length.stride)
    return [1 + (latent - 1) * frames_per_latent for latent in latents]


def seams_of(clips: Iterator[np.ndarray], windows: Sequence[int], latents: Sequence[int]) -> Seams:
    """Return the seams of videos, as means over the videos whose ratios are finite.

    Args:
        clips: videos, each 1 t h w 3.
        windows: frames at which windows of the prior begin.
        latents: frames at which latent frames begin.
    """
    others = [frame for frame in latents if frame not in set(windows)]
    found = []
    for clip in clips:
        last = clip.shape[1]
        at = [frame for frame in latents if frame < last]
        inside = sorted(set(range(1, last)) - set(at))
        found.append(
            (
                boundary_change_per_clip(clip, windows, others).item()
                if windows and others
                else np.nan,
                boundary_change_per_clip(clip, at, inside).item() if at and inside else np.nan,
            )
        )
    means = [
        float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else None
        for values in np.array(found).T
    ]
    return Seams(*means)


def moments(store: ClipStore, windows: Sequence[Window], network: FeatureNetwork) -> Moments:
    """Return the statistics of the features of a store's windows, read a few windows at a time."""
    protocol = replace(DEFAULT_PROTOCOL, num_frames=windows[0].num_frames)
    rows = [
        clip_features(
            read_windows(store, list(windows[start : start + AT_ONCE])), network.module, protocol
        ).cpu()
        for start in range(0, len(windows), AT_ONCE)
    ]
    return Moments.of(torch.cat(rows).numpy())


def drift(
    samples: ClipStore, real: Moments, piece: int, network: FeatureNetwork, every: int
) -> list[dict[str, float]]:
    """Return the first frame, FVD and mean change of each scored piece, over all samples.

    Args:
        samples: the samples.
        real: statistics of real clips of the same length as the pieces.
        piece: number of frames of a piece.
        network: the feature network.
        every: 1 to score all pieces, n to score every n-th piece.

    Raises:
        InputError: a sample has fewer frames than a piece.
    """
    total = min(video.num_frames for video in samples.videos)
    found = []
    for start in range(0, total - piece + 1, piece * every):
        windows = [Window(video, start, piece, 1) for video in range(len(samples.videos))]
        fvd = frechet_distance(real, moments(samples, windows, network), DEFAULT_PROTOCOL.ddof)
        found.append({"frame": start, "fvd": fvd, "change": mean_change(samples, windows)})
        print(f"frames {start} to {start + piece - 1}: FVD {fvd:.1f}", file=sys.stderr)
    if not found:
        raise InputError(f"{samples.path}: its samples have {total} frames, fewer than {piece}")
    return found


def mean_change(store: ClipStore, windows: Sequence[Window]) -> float:
    """Return the mean absolute change between successive frames, in gray levels."""
    changes = [
        float(np.abs(np.diff(clip.numpy()[0].astype(np.int16), axis=0)).mean())
        for clip in (read_windows(store, [window]) for window in windows)
    ]
    return float(np.mean(changes))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all measurements."""
    samples, real = ClipStore(arguments.samples), ClipStore(arguments.real)
    tokenizer = read_tokenizer_identity(arguments.tokenizer)
    length, facts = length_of(samples, tokenizer), tokenizer.facts
    network = load_feature_network(
        arguments.network, "cuda" if torch.cuda.is_available() else "cpu"
    )
    fps = samples.videos[0].fps or 8.0
    piece = max(round(fps), arguments.least)
    stride_t = tokenizer.config.backbone.total_stride_thw[0]
    latents = latent_starts(length.num_frames, stride_t, is_causal=True)
    of_clips = latent_starts(facts.num_frames, stride_t, is_causal=True)
    clips = scoring_windows(
        real, arguments.split, facts.num_frames, facts.stride, len(samples.videos), 0
    )
    pieces = scoring_windows(real, arguments.split, piece, facts.stride, arguments.num, 0)
    return {
        "fps": fps,
        "frames_per_piece": piece,
        "num_samples": len(samples.videos),
        "num_real": len(pieces),
        "seams": seams_of(
            (samples.read(place)[None] for place in range(len(samples.videos))),
            window_starts(length, stride_t),
            latents,
        )._asdict(),
        "seams_real": seams_of(
            (read_windows(real, [window]).numpy() for window in clips), [], of_clips
        )._asdict(),
        "change_real": mean_change(real, pieces),
        "drift": drift(samples, moments(real, pieces, network), piece, network, arguments.every),
    }


def markdown(found: dict[str, Any]) -> str:
    """Return two Markdown tables, one of seams and one of drift."""
    lines = ["| change between frames | samples | real |", "|---|---|---|"]
    for name, told in (
        ("windows", "where a window begins, over other latent frames"),
        ("latents", "where a latent frame begins, over the frames inside"),
    ):
        both = [found[side][name] for side in ("seams", "seams_real")]
        cells = ["–" if value is None else f"{value:.3f}" for value in both]
        lines.append(f"| {told} | {' | '.join(cells)} |")
    lines += [
        "",
        f"| from second | FVD, N = {found['num_samples']} to {found['num_real']} | change |",
    ]
    lines += ["|---|---|---|"]
    lines += [
        f"| {row['frame'] / found['fps']:.1f} | {row['fvd']:.1f} | {row['change']:.2f} |"
        for row in found["drift"]
    ]
    return "\n".join([*lines, f"| real | | {found['change_real']:.2f} |"])


def picture(found: dict[str, Any]) -> str:
    """Return an SVG of FVD over time in seconds."""
    points = [Point(row["frame"] / found["fps"], row["fvd"]) for row in found["drift"]]
    told = f"FVD to {found['num_real']} real clips of {found['frames_per_piece']} frames"
    title = f"{found['num_samples']} samples, second by second"
    return curve_picture({"samples": points}, Axis("from second"), Axis(told), title)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("samples", type=Path, help="a store of `video-vq sample --seconds`")
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="the one that made the samples"
    )
    parser.add_argument("--real", type=Path, required=True, help="a clip store of real videos")
    parser.add_argument("--split", default="test", help="split of the real videos")
    parser.add_argument("--num", type=int, default=2048, help="largest number of real clips")
    parser.add_argument(
        "--least", type=int, default=10, help="smallest number of frames in a piece"
    )
    parser.add_argument("--every", type=int, default=1, help="score only every n-th second")
    parser.add_argument("--network", help="module:function instead of I3D")
    parser.add_argument("--out", type=Path, required=True, help="folder for long.json and long.svg")
    arguments = parser.parse_args()
    try:
        found = measure(arguments)
    except (ConfigError, InputError) as error:
        sys.exit(f"long.py: {error}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "long.json").write_text(json.dumps(found) + "\n")
    (arguments.out / "long.svg").write_text(picture(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
