"""Scores of a tokenizer and its prior's samples, beside controls computed in the same run."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from video_vq.data.loader import read_windows
from video_vq.data.windows import scoring_windows
from video_vq.environment import environment
from video_vq.errors import InputError
from video_vq.evaluation import controls
from video_vq.evaluation.compare import compare
from video_vq.evaluation.encode import decode_grids, require_same_tokenizer
from video_vq.evaluation.features import BATCH, FeatureSet, store_features
from video_vq.evaluation.gallery import SHOWN, Gallery, Pair
from video_vq.evaluation.likelihood import PREDICTOR_GRIDS, draw_rows, score_prior
from video_vq.media.encode import tile, write_animation, write_png
from video_vq.metrics.codebook import CodeUsage
from video_vq.metrics.fvd import clip_features
from video_vq.metrics.i3d import load_i3d
from video_vq.metrics.protocol import FVDProtocol
from video_vq.metrics.reconstruction import psnr_per_clip, ssim_per_clip
from video_vq.metrics.weights import CHECKPOINT
from video_vq.models.model_folder import read_model_config
from video_vq.models.prior import Prior
from video_vq.models.tokenizer import VideoTokenizer, to_uint8
from video_vq.progress import progress
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import read_json, write_json
from video_vq.stores.tokens import TokenStore

KMEANS_CLIPS = 256
SHEET_WIDTH = 96  # pixels of a clip on a sheet, about
FVD_FRAMES = 16
DEFAULT_FPS = 8.0  # for playing clips whose rate is unknown


class Evaluation:
    """One evaluation: what is scored, against which clips, under which protocol.

    Args:
        accelerator: of one process.
        data: the clip store of real videos.
        tokenizer_path: the tokenizer.
        split: of the store; the test split chooses nothing, so it is the one to report.
        num_clips: at most this many; no two overlap.
        protocol: of FVD.

    Raises:
        InputError: something is missing, or the sizes do not fit.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        data: Path,
        tokenizer_path: Path,
        split: str,
        num_clips: int,
        protocol: FVDProtocol,
        seed: int = 0,
    ):
        if accelerator.num_processes > 1:
            raise InputError("evaluate runs as one process: start it without accelerate launch")
        self.accelerator, self.protocol, self.split, self.seed = accelerator, protocol, split, seed
        self.tokenizer = VideoTokenizer.from_pretrained(tokenizer_path, device=accelerator.device)
        self.store = ClipStore(data)
        facts = self.tokenizer.facts
        self.num_frames, self.stride = facts.num_frames, facts.stride
        size_thw = (self.num_frames, *self.store.frame_size_hw)
        self.grid_thw = self.tokenizer.config.backbone.grid_thw(size_thw)
        self.windows = scoring_windows(
            self.store, split, self.num_frames, self.stride, num_clips, seed
        )
        # FVD of 17 frames is another metric than of 16: what goes beyond is not scored by it.
        self.scored_frames = min(FVD_FRAMES, self.num_frames)
        self.network = load_i3d().to(accelerator.device)
        self.gallery = Gallery()
        self.real = self._features("real")

    def _features(self, name: str, transform: Any = None) -> FeatureSet:
        windows = [window._replace(num_frames=self.scored_frames) for window in self.windows]
        return store_features(
            self.store, windows, self.network, self.protocol, name, self.split, transform
        )

    def _features_of(self, clips: torch.Tensor) -> np.ndarray:
        scored = clips[:, : self.scored_frames]
        return clip_features(scored, self.network, self.protocol).cpu().numpy()

    def reconstruction(self) -> dict[str, Any]:
        """Score the reconstructions: PSNR, SSIM, code usage, paired rFVD."""
        usage = CodeUsage(self.tokenizer.config.quantizer.codebook_size)
        psnr, ssim, rows = [], [], []
        with progress("reconstruction", len(self.windows), "clip") as bar:
            for start in range(0, len(self.windows), BATCH):
                clips = read_windows(self.store, self.windows[start : start + BATCH])
                codes, copy = self._reconstruct(clips)
                usage.update(codes.cpu())
                psnr.append(psnr_per_clip(copy, clips))
                ssim.append(ssim_per_clip(copy, clips))
                rows.append(self._features_of(copy))
                for row, window in enumerate(self.windows[start : start + BATCH]):
                    video = self.store.videos[window.video]
                    source = (video.id, window.start)
                    self.gallery.add_pair(
                        Pair(
                            clips[row].numpy(),
                            copy[row].numpy(),
                            source,
                            video.label,
                            float(psnr[-1][row]),
                        )
                    )
                bar.update(len(clips))
        fake = FeatureSet("reconstructed", np.concatenate(rows), self.real.groups, (), "", None)
        use = usage.compute()
        counts = usage.counts.sort(descending=True).values
        return {
            "psnr": _quantiles(torch.cat(psnr)),
            "ssim": _quantiles(torch.cat(ssim)),
            "rfvd": self._fvd(fake),
            "codebook": use._asdict(),
            "codebook_size": usage.codebook_size,
            "code_counts": counts.tolist(),
            "clips": self._per_clip(torch.cat(psnr), torch.cat(ssim)),
            "bits_per_clip": math.prod(self.grid_thw) * math.log2(usage.codebook_size),
        }

    def _per_clip(self, psnr: torch.Tensor, ssim: torch.Tensor) -> list[dict[str, Any]]:
        """Return a line per clip; the PSNR of an exact copy is null."""
        return [
            {
                "video": self.store.videos[window.video].id,
                "start": window.start,
                "psnr": None if math.isinf(decibels) else decibels,
                "ssim": similarity,
            }
            for window, decibels, similarity in zip(
                self.windows, psnr.tolist(), ssim.tolist(), strict=True
            )
        ]

    def _reconstruct(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with self.accelerator.autocast():
            codes = self.tokenizer.encode(clips.to(self.accelerator.device))
            video = self.tokenizer.decode(codes)
        return codes, to_uint8(video).cpu()

    def reconstruction_controls(self) -> dict[str, float | None]:
        """Return the PSNR of still pictures, and of k-means on raw patches."""
        config = self.tokenizer.config
        train = scoring_windows(
            self.store, "train", self.num_frames, self.stride, KMEANS_CLIPS, self.seed
        )
        stride_t, stride_h, stride_w = config.backbone.total_stride_thw
        codebook = None
        if not config.backbone.causal:
            codebook = controls.PatchCodebook(
                read_windows(self.store, train),
                (stride_t, stride_h, stride_w),
                config.quantizer.codebook_size,
                self.seed,
            )
        values: dict[str, list[torch.Tensor]] = {}
        for start in range(0, len(self.windows), BATCH):
            clips = read_windows(self.store, self.windows[start : start + BATCH])
            made = {
                "psnr_clip_mean": controls.clip_mean(clips),
                "psnr_first_frame": controls.first_frame(clips),
            }
            if codebook is not None:
                made["psnr_kmeans_patches"] = codebook.reconstruct(clips)
            for name, control in made.items():
                values.setdefault(name, []).append(psnr_per_clip(control, clips))
        return {name: _finite_mean(torch.cat(parts)) for name, parts in values.items()}

    def generation(self, samples: Path) -> dict[str, Any]:
        """Score a clip store of samples: gFVD."""
        store = ClipStore(samples)
        # One clip per sample, its first frames, cut as the real clips are.
        windows = [
            window._replace(start=0, num_frames=self.scored_frames)
            for window in scoring_windows(store, None, self.num_frames, 1, None, self.seed)
            if window.start < self.num_frames
        ][: len(self.windows)]
        for window in sorted(windows, key=lambda window: window.video):
            video = window.video
            self.gallery.add_sample(
                store.videos[video].label,
                lambda video=video: _padded(store.read(video), self.num_frames),
            )
        fake = store_features(store, windows, self.network, self.protocol, "sampled", None)
        return {"gfvd": self._fvd(fake), "samples": store.plan}

    def generation_controls(self, tokens: TokenStore) -> dict[str, float]:
        """Return the FVD of frozen first frames, and of tokens drawn position by position."""
        frozen = self._features("first frames", controls.first_frame)
        grids = controls.draw_per_position(
            tokens.read_rows(draw_rows(tokens, "train", PREDICTOR_GRIDS)),
            len(self.windows),
            self.seed,
        )
        clips = decode_grids(self.accelerator, self.tokenizer, torch.from_numpy(grids), BATCH)
        self.gallery.add_control("tokens per position", list(clips[:SHOWN]))
        rows = []
        with progress("I3D per position", len(clips), "clip") as bar:
            for start in range(0, len(clips), BATCH):
                batch = torch.from_numpy(clips[start : start + BATCH])
                rows.append(self._features_of(batch))
                bar.update(len(batch))
        drawn = FeatureSet("per position", np.concatenate(rows), (), (), "", None)
        return {
            "fvd_first_frame": self._fvd(frozen)["value"],
            "fvd_tokens_per_position": self._fvd(drawn)["value"],
        }

    def _fvd(self, fake: FeatureSet) -> dict[str, Any]:
        result = compare(self.real, fake, self.protocol)
        return {
            "value": result.value,
            "num_real": result.num_real,
            "num_fake": result.num_fake,
            "warnings": list(result.warnings),
        }

    def floor(self) -> dict[str, Any] | None:
        """Return FVD of real clips against other real clips."""
        found = compare(self.real, self.real, self.protocol).floor
        return None if found is None else found._asdict()

    def write_pictures(self, out: Path, identity: dict[str, Any]) -> None:
        """Write the sheet, as an animation and as a picture, and the gallery of a report."""
        fps = self.store.videos[0].fps
        rate = None if fps is None else fps / self.stride
        self.gallery.write(out / "gallery", {"scores": identity}, rate)
        rows = self.gallery.rows()
        columns = min(len(row) for row in rows.values())
        clips = [clip for row in rows.values() for clip in row[:columns]]
        labels = [name if column == 0 else "" for name in rows for column in range(columns)]
        # Small frames are shown larger: their labels would not fit.
        scale = max(1, SHEET_WIDTH // clips[0].shape[2])
        sheet = tile(clips, columns, scale=scale, labels=labels)
        write_animation(out / "sheet.webp", sheet, fps=rate or DEFAULT_FPS)
        quarters = list(sheet[:: max(1, len(sheet) // 4)])
        write_png(out / "sheet.png", np.concatenate(quarters, axis=0))


def evaluate(
    accelerator: Accelerator,
    data: Path,
    tokenizer_path: Path,
    out: Path,
    protocol: FVDProtocol,
    split: str = "test",
    num_clips: int = 2048,
    samples: Path | None = None,
    prior_path: Path | None = None,
    tokens_path: Path | None = None,
    with_controls: bool = False,
) -> dict[str, Any]:
    """Score a tokenizer, and a prior when its samples or its tokens are named.

    Args:
        out: folder for scores.json and the sheets.
        samples: a clip store of samples: adds gFVD.
        prior_path, tokens_path: a prior and the token store of `data`: add the rate.
        with_controls: compute in the same run what the scores must beat.

    Raises:
        InputError: see `Evaluation`.
    """
    identity = {
        "data": ClipStore(data).content_hash,
        "tokenizer": read_model_config(tokenizer_path, "tokenizer").hash,
        "samples": None if samples is None else ClipStore(samples).content_hash,
        "tokens": None if tokens_path is None else TokenStore(tokens_path).content_hash,
        "prior": None if prior_path is None else read_model_config(prior_path, "prior").hash,
        "split": split,
        "num_clips": num_clips,
        "protocol": protocol.settings(),
        "controls": with_controls,
        "precision": accelerator.mixed_precision,
    }
    if (out / "scores.json").exists():
        before = read_json(out / "scores.json", "scores")
        if before.get("identity") == identity:
            return before
    tokens = None if tokens_path is None else TokenStore(tokens_path)
    prior = None
    if prior_path is not None:
        prior = Prior.from_pretrained(prior_path, device=accelerator.device)
    _require_fit(ClipStore(data), samples, tokens, prior)
    run = Evaluation(accelerator, data, tokenizer_path, split, num_clips, protocol)
    scores: dict[str, Any] = {
        "identity": identity,
        "environment": environment(),
        "made_by": {
            "data": run.store.plan,
            "tokens": None if tokens is None else tokens.header.made_by,
        },
        "protocol": protocol.settings(),
        "network_sha256": CHECKPOINT.sha256,
        "data": run.real.data_hash,
        "tokenizer": run.tokenizer.hash,
        "split": split,
        "num_clips": len(run.windows),
        "num_frames": run.num_frames,
        "num_frames_in_fvd": run.scored_frames,
        "frame_stride": run.stride,
        "reconstruction": run.reconstruction(),
        "floor": run.floor(),
        "controls": run.reconstruction_controls() if with_controls else {},
    }
    if samples is not None:
        scores["generation"] = run.generation(samples)
    if tokens is not None:
        require_same_tokenizer(run.tokenizer, tokens.header.tokenizer_hash, str(tokens_path))
        if with_controls and samples is not None:
            scores["controls"].update(run.generation_controls(tokens))
        if prior is not None:
            require_same_tokenizer(run.tokenizer, prior.facts.tokenizer_hash, str(prior_path))
            scores["prior"] = score_prior(accelerator, prior, tokens, split)
    out.mkdir(parents=True, exist_ok=True)
    run.write_pictures(out, identity)
    write_json(out / "scores.json", scores)
    return scores


def _require_fit(
    store: ClipStore, samples: Path | None, tokens: TokenStore | None, prior: Prior | None
) -> None:
    """Refuse samples, tokens and a prior of other data before anything is computed."""
    if samples is not None and ClipStore(samples).frame_size_hw != store.frame_size_hw:
        raise InputError(
            f"{samples}: frames of {ClipStore(samples).frame_size_hw}, the data's are "
            f"{store.frame_size_hw}; score samples of a model trained on this data"
        )
    if tokens is not None and tokens.header.data_hash != store.content_hash:
        raise InputError(
            f"{tokens.path}: was not encoded from {store.path}; "
            f"run `video-vq encode {store.path} --tokenizer … --out …` first"
        )
    if prior is not None and tokens is not None:
        ours = (prior.facts.classes, prior.config.grid_thw)
        theirs = (tokens.header.classes, tokens.header.grid_thw)
        if ours != theirs:
            raise InputError(
                f"the prior was trained on classes and grid {ours}, {tokens.path} has {theirs}; "
                "train a prior on these tokens"
            )


def _padded(clip: np.ndarray, num_frames: int) -> np.ndarray:
    """Return a clip of exactly so many frames, its last one repeated, for a sheet."""
    return clip[np.arange(num_frames).clip(max=len(clip) - 1)]


def _quantiles(values: torch.Tensor) -> dict[str, float | int | None]:
    """Return the mean and quantiles of the finite values, and how many were not (exact copies)."""
    finite = values[torch.isfinite(values)]
    num_exact = len(values) - len(finite)
    if not len(finite):
        return {"mean": None, "num_exact": num_exact}
    points = torch.tensor([0.05, 0.5, 0.95], dtype=finite.dtype)
    low, median, high = (float(point) for point in finite.quantile(points))
    return {
        "mean": float(finite.mean()),
        "q05": low,
        "median": median,
        "q95": high,
        "num_exact": num_exact,
    }


def _finite_mean(values: torch.Tensor) -> float | None:
    finite = values[torch.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
