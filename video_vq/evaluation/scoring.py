"""The clips, features and scores of one evaluation of a tokenizer and of samples."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from video_vq.data.clip_config import ShortVideos
from video_vq.data.loader import read_windows
from video_vq.data.windows import Window, first_windows, read_window, scoring_windows
from video_vq.errors import InputError
from video_vq.evaluation import controls
from video_vq.evaluation.classes import class_accuracy
from video_vq.evaluation.feature_file import write_features
from video_vq.evaluation.feature_network import load_feature_network
from video_vq.evaluation.features import (
    BATCH,
    Clip,
    Cut,
    Extractor,
    FeatureSet,
    clip_features_of,
    store_features,
)
from video_vq.evaluation.fvd_comparison import compare
from video_vq.evaluation.gallery import SHOWN, Gallery, Pair, places_to_show
from video_vq.evaluation.generation_protocols import (
    GenerationProtocol,
    as_scored,
    require_protocol,
    require_same_clips,
)
from video_vq.evaluation.likelihood import PREDICTOR_GRIDS, draw_rows
from video_vq.evaluation.memorisation import diversity, memorisation
from video_vq.evaluation.reconstruction_scores import (
    per_clip,
    quantiles,
    reconstruct,
    score_reconstructions,
)
from video_vq.evaluation.sheet import write_sheet
from video_vq.metrics.perceptual import StLpips
from video_vq.metrics.protocol import FVDProtocol
from video_vq.metrics.reconstruction import psnr_per_clip
from video_vq.metrics.resize import check_length
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stages.decode_tokens import decode_grids
from video_vq.stores.clips import ClipStore
from video_vq.stores.tokens import TokenStore
from video_vq.stores.videos import commonest_fps

KMEANS_CLIPS = 256
FVD_FRAMES = 16


class Evaluation:
    """One evaluation: what is scored, against which clips, under which protocol.

    Args:
        accelerator: its ranks share the clips.
        data: the clip store of real videos.
        tokenizer: whose reconstructions are scored.
        split: of the store; the test split chooses nothing, so it is the one to report.
        num_clips: at most this many; no two overlap.
        protocol: of FVD.
        samples: a clip store of samples.
        generation: the published protocol that the samples must follow.
        short_videos: what becomes of those shorter than a clip.

    Raises:
        InputError: something is missing, the sizes do not fit, or the samples are not what the
            generation protocol asks for.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        data: Path,
        tokenizer: VideoTokenizer,
        split: str,
        num_clips: int,
        protocol: FVDProtocol,
        samples: Path | None = None,
        generation: GenerationProtocol | None = None,
        seed: int = 0,
        short_videos: ShortVideos = "leave_out",
    ):
        self.accelerator, self.protocol, self.split, self.seed = accelerator, protocol, split, seed
        self.short_videos: ShortVideos = short_videos
        self.tokenizer = tokenizer
        self.store = ClipStore(data)
        facts = self.tokenizer.facts
        self.num_frames, self.stride = facts.num_frames, facts.stride
        size_thw = (self.num_frames, *self.store.frame_size_hw)
        self.grid_thw = self.tokenizer.config.backbone.grid_thw(size_thw)
        if generation is not None and generation.given_frames > 0:
            found = first_windows(self.store, split, self.num_frames, self.stride, short_videos)
            self.windows = found[:num_clips]
        else:
            self.windows = scoring_windows(
                self.store, split, self.num_frames, self.stride, num_clips, seed, short_videos
            )
        self.generation_protocol = generation
        self.samples = None if samples is None else ClipStore(samples)
        if self.samples is not None and generation is not None:
            long = [video for video in self.samples.videos if video.num_frames >= self.num_frames]
            require_protocol(generation, len(self.windows), len(long), self.samples.plan)
            if generation.given_frames > 0:
                require_same_clips(self.samples.plan, self.store.content_hash, split)
        # FVD of 17 frames is another metric than of 16: what goes beyond is not scored by it.
        self.scored_frames = min(FVD_FRAMES, self.num_frames)
        self.sample_windows = self._sample_windows()
        self._require_scorable()
        self.network = load_feature_network(None, accelerator.device)
        self.extractor = Extractor(self.network, [protocol])
        self.gallery = Gallery()
        self.sets: dict[str, FeatureSet] = {"real": self._features("real")}

    def _sample_windows(self) -> list[Window]:
        """Return one clip for each sample, its first frames, cut as the real clips are."""
        if self.samples is None:
            return []
        return [
            window._replace(start=0, num_frames=self.scored_frames)
            for window in scoring_windows(self.samples, None, self.num_frames, 1, None, self.seed)
            if window.start < self.num_frames
        ]

    def _require_scorable(self) -> None:
        """Refuse clips of which FVD cannot be computed, before the first one is read."""
        check_length(self.scored_frames, self.protocol)
        counts = {f"{self.store.path}, split {self.split}": len(self.windows)}
        if self.samples is not None:
            counts[str(self.samples.path)] = len(self.sample_windows)
        for name, count in counts.items():
            if count < 2:
                raise InputError(
                    f"{name}: FVD needs at least 2 clips, found {count}; take a larger --split or "
                    "--num, or more samples"
                )

    @property
    def real(self) -> FeatureSet:
        """Return the features of the real clips."""
        return self.sets["real"]

    def _features(self, name: str, transform: Any = lambda clip: clip) -> FeatureSet:
        windows = [window._replace(num_frames=self.scored_frames) for window in self.windows]
        return store_features(
            self.store, windows, self.extractor, name, self.split, self.accelerator, transform
        )

    def reconstruction(self, st_lpips: StLpips | None) -> dict[str, Any]:
        """Score the reconstructions: PSNR, SSIM, motion, ST-LPIPS, code usage, paired rFVD."""
        found = score_reconstructions(
            self.accelerator,
            self.tokenizer,
            self.store,
            self.windows,
            self.extractor,
            self.scored_frames,
            st_lpips,
        )
        self.sets["reconstructed"] = found.features
        if self.accelerator.is_main_process:
            self._show_pairs(found.values["psnr"])
        bits = math.prod(self.grid_thw) * math.log2(self.tokenizer.config.quantizer.codebook_size)
        return {
            **{name: quantiles(values) for name, values in found.values.items()},
            "rfvd": self._fvd(found.features),
            "codebook": found.usage,
            "codebook_size": len(found.code_counts),
            "code_counts": found.code_counts,
            "clips": per_clip(self.store, self.windows, found.values),
            "bits_per_clip": bits,
            "bits_per_second": self._per_second(bits),
        }

    def _per_second(self, bits_per_clip: float) -> float | None:
        fps = {self.store.videos[window.video].fps for window in self.windows}
        (rate,) = fps if len(fps) == 1 else (None,)
        return None if rate is None else bits_per_clip * rate / (self.num_frames * self.stride)

    def _show_pairs(self, psnr: np.ndarray) -> None:
        for role, places in places_to_show(psnr).items():
            clips = read_windows(self.store, [self.windows[place] for place in places])
            _, copies = reconstruct(self.accelerator, self.tokenizer, clips)
            pairs = []
            for row, place in enumerate(places):
                window = self.windows[place]
                video = self.store.videos[window.video]
                source = (video.id, window.start)
                pairs.append(
                    Pair(
                        clips[row].numpy(),
                        copies[row].numpy(),
                        source,
                        video.label,
                        float(psnr[place]),
                    )
                )
            self.gallery.add_pairs(role, pairs)

    def reconstruction_controls(self) -> dict[str, float | None]:
        """Return the PSNR of still pictures, and of k-means on raw patches."""
        config = self.tokenizer.config
        stride_t, stride_h, stride_w = config.backbone.total_stride_thw
        codebook = None
        if not config.backbone.causal:
            train = scoring_windows(
                *(self.store, "train", self.num_frames, self.stride, KMEANS_CLIPS, self.seed),
                self.short_videos,
            )
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

    def generation(self, store: ClipStore) -> dict[str, Any]:
        """Score a clip store of samples: gFVD, memorisation, diversity."""
        protocol = self.generation_protocol
        windows = self.sample_windows
        num_samples = len(windows)
        if protocol is None:
            windows = windows[: len(self.windows)]
        self._show_samples(store, windows)
        fake = store_features(store, windows, self.extractor, "sampled", None, self.accelerator)
        self.sets["sampled"] = fake
        clips = [store.read(window.video, 0, self.scored_frames) for window in windows]
        held_out = [window._replace(num_frames=self.scored_frames) for window in self.windows]
        found: dict[str, Any] = {
            "gfvd": self._fvd(fake),
            "protocol": None if protocol is None else as_scored(protocol, self.store.simulated),
            "diversity": diversity(self.real.of(self.protocol), fake.of(self.protocol)),
            "num_samples": num_samples,
            "samples": store.plan,
            # On the clips that the classifier learns from its accuracy would say nothing.
            "classes": None
            if self.split == "train"
            else class_accuracy(
                self.store, held_out, store, windows, self.accelerator.device, self.seed
            ),
        }
        if self.split != "train" and any(video.split == "train" for video in self.store.videos):
            scores, neighbours, train = memorisation(
                self.store, clips, held_out, self.scored_frames, self.stride
            )
            found["memorisation"] = scores
            closest = np.argsort(neighbours.distance)[:SHOWN]
            self.gallery.add_neighbours(
                [
                    (
                        clips[place],
                        self._read(train[neighbours.place[place]]),
                        float(neighbours.distance[place]),
                    )
                    for place in closest
                ]
            )
        return found

    def _show_samples(self, store: ClipStore, windows: list[Window]) -> None:
        for window in sorted(windows, key=lambda window: window.video):
            video = window.video
            self.gallery.add_sample(
                store.videos[video].label,
                lambda video=video: _padded(store.read(video), self.num_frames),
            )

    def _read(self, window: Window) -> Clip:
        return read_window(self.store, window)

    def generation_controls(self, tokens: TokenStore) -> dict[str, float]:
        """Return the FVD of frozen first frames, and of tokens drawn position by position."""
        frozen = self._features("first frames", lambda clip: np.repeat(clip[:1], len(clip), 0))
        grids = controls.draw_per_position(
            tokens.read_rows(draw_rows(tokens, "train", PREDICTOR_GRIDS)),
            len(self.windows),
            self.seed,
        )
        clips = decode_grids(self.accelerator, self.tokenizer, torch.from_numpy(grids), BATCH)
        self.gallery.add_control("tokens per position", list(clips[:SHOWN]))
        drawn = clip_features_of(
            "tokens per position",
            [clip[: self.scored_frames] for clip in clips],
            self.extractor,
            self.accelerator,
        )
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

    def write(self, out: Path, identity: dict[str, Any]) -> None:
        """Write the sheet, the gallery of a report, and the features that `compare` reads."""
        fps = commonest_fps(self.store.videos)
        rate = None if fps is None else fps / self.stride
        self.gallery.write(out / "gallery", {"scores": identity}, rate)
        write_sheet(out, self.gallery.rows(), rate)
        cut = Cut(self.scored_frames, self.stride)
        for name, features in self.sets.items():
            write_features(out / f"features-{name}.safetensors", features, self.network, cut)


def _padded(clip: np.ndarray, num_frames: int) -> np.ndarray:
    """Return a clip of exactly so many frames, its last one repeated, for a sheet."""
    return clip[np.arange(num_frames).clip(max=len(clip) - 1)]


def _finite_mean(values: torch.Tensor) -> float | None:
    finite = values[torch.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
