"""Controls that a score must beat: still images, k-means on raw patches, and independent tokens."""

from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from video_vq.data.loader import read_windows
from video_vq.evaluation.evaluation_setup import SEED, EvaluationSetup
from video_vq.evaluation.features import BATCH, clip_features_of
from video_vq.evaluation.likelihood import PREDICTOR_GRIDS, draw_rows
from video_vq.metrics.reconstruction import psnr_per_clip
from video_vq.quantizers.lookup import nearest_codes
from video_vq.stages.decode_tokens import decode_grids
from video_vq.stores.tokens import TokenStore

Clips = UInt8[Tensor, "b t h w 3"]

KMEANS_CLIPS = 256
KMEANS_CODES = 1 << 14  # larger codebooks would have hardly any patches per code
KMEANS_STEPS = 25
KMEANS_PATCHES = 65536


def clip_mean(clips: Clips) -> Clips:
    """Replace every frame with the clip's mean over time, the still image with the highest PSNR."""
    mean = reduce(clips.float(), "b t h w c -> b 1 h w c", "mean").round().to(torch.uint8)
    return mean.expand_as(clips)


def first_frame(clips: Clips) -> Clips:
    """Replace every frame with the clip's first frame."""
    return clips[:, :1].expand_as(clips)


class PatchCodebook:
    """A codebook of raw patches, found by k-means: a tokenizer without a network.

    The codes are trained by Lloyd's algorithm, initialized by k-means++ (Arthur and Vassilvitskii
    2007); an empty cluster is moved to a random training patch.

    Args:
        clips: training clips.
        patch_thw: size of the patch that one token covers, in frames and pixels.
        num_codes: number of codes, K.
        seed: seed for choosing patches and for the initial codes.
    """

    def __init__(self, clips: Clips, patch_thw: tuple[int, int, int], num_codes: int, seed: int):
        self.patch_thw = patch_thw
        random = np.random.default_rng([seed, 0x4B])
        patches = self._patches(clips)
        if len(patches) > KMEANS_PATCHES:
            chosen = np.sort(random.choice(len(patches), KMEANS_PATCHES, replace=False))
            patches = patches[torch.from_numpy(chosen)]
        self.codes = _spread_out(patches, num_codes, random)
        for _ in range(KMEANS_STEPS):
            nearest = nearest_codes(patches, self.codes)
            counts = torch.bincount(nearest, minlength=num_codes)
            sums = torch.zeros_like(self.codes).index_add_(0, nearest, patches)
            empty = counts == 0
            self.codes = sums / counts.clamp(min=1).unsqueeze(1)
            moved = random.integers(len(patches), size=int(empty.sum()))
            self.codes[empty] = patches[torch.from_numpy(moved)]

    def _patches(self, clips: Clips) -> Float[Tensor, "n d"]:
        t, h, w = self.patch_thw
        pattern = "b (t z) (h y) (w x) c -> (b t h w) (z y x c)"
        return rearrange(clips, pattern, z=t, y=h, x=w).float()

    def reconstruct(self, clips: Clips) -> Clips:
        """Replace each patch with the nearest code."""
        t, h, w = self.patch_thw
        rows = self.codes[nearest_codes(self._patches(clips), self.codes)]
        return rearrange(
            rows.round().clamp(0, 255).to(torch.uint8),
            "(b t h w) (z y x c) -> b (t z) (h y) (w x) c",
            b=clips.shape[0],
            t=clips.shape[1] // t,
            h=clips.shape[2] // h,
            z=t,
            y=h,
            x=w,
        )


def _spread_out(
    rows: Float[Tensor, "n d"], number: int, random: np.random.Generator
) -> Float[Tensor, "k d"]:
    """Draw rows with probability proportional to the squared distance to the nearest drawn row."""
    squares = rows.square().sum(1)
    nearest = torch.full_like(squares, torch.inf)
    chosen = [int(random.integers(len(rows)))]
    while len(chosen) < number:
        centre = rows[chosen[-1]]
        distance = (squares - 2 * (rows @ centre) + centre.square().sum()).clamp_(min=0)
        nearest = torch.minimum(nearest, distance)
        cumulated = nearest.double().cumsum(0)
        draw = torch.tensor([random.random()], dtype=torch.float64) * cumulated[-1]
        chosen.append(min(int(torch.searchsorted(cumulated, draw)), len(rows) - 1))
    return rows[torch.tensor(chosen)].clone()


def draw_per_position(
    grids: Int[np.ndarray, "n t h w"], count: int, seed: int
) -> Int[np.ndarray, "m t h w"]:
    """Draw token grids, sampling each position independently from a random training grid."""
    random = np.random.default_rng([seed, 0x90])
    flat = grids.reshape(len(grids), -1)
    picks = random.integers(len(flat), size=(count, flat.shape[1]))
    return flat[picks, np.arange(flat.shape[1])].reshape(count, *grids.shape[1:])


def reconstruction_controls(setup: EvaluationSetup) -> dict[str, float | None]:
    """Return the mean PSNR of still images and of k-means on raw patches.

    K-means is skipped if the tokenizer is causal or has more than `KMEANS_CODES` codes.
    """
    config = setup.tokenizer.config
    codebook = None
    if not config.backbone.causal and config.quantizer.codebook_size <= KMEANS_CODES:
        train = read_windows(setup.store, setup.clips_of("train", KMEANS_CLIPS))
        stride_thw, num_codes = config.backbone.total_stride_thw, config.quantizer.codebook_size
        codebook = PatchCodebook(train, stride_thw, num_codes, SEED)
    values: dict[str, list[Tensor]] = {}
    for start in range(0, len(setup.windows), BATCH):
        clips = read_windows(setup.store, setup.windows[start : start + BATCH])
        made = {"psnr_clip_mean": clip_mean(clips), "psnr_first_frame": first_frame(clips)}
        if codebook is not None:
            made["psnr_kmeans_patches"] = codebook.reconstruct(clips)
        for name, control in made.items():
            values.setdefault(name, []).append(psnr_per_clip(control, clips))
    return {name: _finite_mean(torch.cat(parts)) for name, parts in values.items()}


def _finite_mean(values: Tensor) -> float | None:
    finite = values[torch.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


class GenerationControls(NamedTuple):
    """The FVD of each control by name, and the clips decoded from independently drawn tokens."""

    scores: dict[str, float]
    drawn: UInt8[np.ndarray, "n t h w 3"]


def generation_controls(setup: EvaluationSetup, tokens: TokenStore) -> GenerationControls:
    """Return the FVDs of still first frames and of clips from random tokens, with these clips.

    All ranks must call this function. Each token is drawn independently; see `draw_per_position`.
    """
    frozen = setup.real_features("first frames", lambda clip: np.repeat(clip[:1], len(clip), 0))
    train = tokens.read_rows(draw_rows(tokens, "train", PREDICTOR_GRIDS))
    grids = torch.from_numpy(draw_per_position(train, len(setup.windows), SEED))
    clips = decode_grids(setup.accelerator, setup.tokenizer, grids, BATCH)
    drawn = clip_features_of(
        "tokens per position",
        list(clips[:, : setup.scored_frames]),
        setup.extractor,
        setup.accelerator,
    )
    scores = {"fvd_first_frame": frozen, "fvd_tokens_per_position": drawn}
    return GenerationControls(
        {name: setup.fvd(features)["value"] for name, features in scores.items()}, clips
    )
