"""Prepares an evaluation: the clips, the feature network, and the features of the real clips."""

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator

from video_vq.data.clip_config import ShortVideos
from video_vq.data.windows import Window, first_windows, scoring_windows
from video_vq.errors import InputError
from video_vq.evaluation.evaluation_job import EvaluationJob
from video_vq.evaluation.feature_network import load_feature_network
from video_vq.evaluation.features import Clip, Extractor, FeatureSet, store_features
from video_vq.evaluation.fvd_comparison import beside_fvd, compare
from video_vq.evaluation.generation_protocols import require_protocol, require_same_clips
from video_vq.metrics.resize import check_length
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stores.clips import ClipStore

FVD_FRAMES = 16
SEED = 0  # seed for choosing clips and for the controls


class EvaluationSetup:
    """The clips of one evaluation, and everything needed to score them.

    Args:
        accelerator: accelerator whose ranks divide the clips among themselves.

    Attributes:
        store, split, windows: clip store, split and non-overlapping windows of the real clips.
        num_frames, stride: number of frames per real clip, and the frame stride in the video.
        scored_frames: number of initial frames of each clip that are scored by FVD.
        samples, sample_windows: clip store of samples (or None), and one window of `scored_frames`
            frames at the start of each sample that is at least as long as a real clip.
        network, extractor: feature network, and the extractor that runs the network.
        real: features of the real clips.

    Raises:
        InputError: an input is missing, the clip length does not suit the FVD protocol, there are
            fewer than 2 clips, the samples do not follow the generation protocol, or the feature
            network cannot be loaded or does not suit the FVD protocol.
    """

    def __init__(self, accelerator: Accelerator, job: EvaluationJob, tokenizer: VideoTokenizer):
        self.accelerator, self.tokenizer = accelerator, tokenizer
        self.protocol, self.generation_protocol = job.protocol, job.generation
        self.short_videos: ShortVideos = job.short_videos
        self.split, num_clips = job.split_and_number
        self.store = ClipStore(job.data)
        self.num_frames, self.stride = tokenizer.facts.num_frames, tokenizer.facts.stride
        # FVD over 17 frames is a different metric from FVD over 16, so later frames are not scored.
        self.scored_frames = min(FVD_FRAMES, self.num_frames)
        if job.generation is not None and job.generation.given_frames > 0:
            cut = (self.num_frames, self.stride)
            found = first_windows(self.store, self.split, *cut, self.short_videos)
            self.windows = found[:num_clips]
        else:
            self.windows = self.clips_of(self.split, num_clips)
        self.samples = None if job.samples is None else ClipStore(job.samples)
        self._require_protocol()
        self.sample_windows = self._sample_windows()
        self._require_scorable()
        self.network = load_feature_network(job.network, accelerator.device)
        self.extractor = Extractor(self.network, [self.protocol])
        self.real = self.real_features("real")

    def clips_of(self, split: str, count: int) -> list[Window]:
        """Return the windows of at most `count` non-overlapping real clips of a split."""
        cut = (self.num_frames, self.stride, count, SEED)
        return scoring_windows(self.store, split, *cut, self.short_videos)

    def _sample_windows(self) -> list[Window]:
        if self.samples is None:
            return []
        return [
            window._replace(start=0, num_frames=self.scored_frames)
            for window in scoring_windows(self.samples, None, self.num_frames, 1, None, SEED)
            if window.start < self.num_frames
        ]

    def _require_protocol(self) -> None:
        protocol = self.generation_protocol
        if self.samples is None or protocol is None:
            return
        long = [video for video in self.samples.videos if video.num_frames >= self.num_frames]
        require_protocol(protocol, len(self.windows), len(long), self.samples.plan)
        if protocol.given_frames > 0:
            require_same_clips(self.samples.plan, self.store.content_hash, self.split)

    def _require_scorable(self) -> None:
        """Reject clips for which FVD cannot be computed, before any clip is read."""
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
    def scored_windows(self) -> list[Window]:
        """Return the windows of the real clips, shortened to the frames scored by FVD."""
        return [window._replace(num_frames=self.scored_frames) for window in self.windows]

    def real_features(
        self, name: str, transform: Callable[[Clip], Clip] = lambda clip: clip
    ) -> FeatureSet:
        """Return the features of the real clips, after an optional transform of each clip."""
        windows, sharing = self.scored_windows, self.accelerator
        extractor = self.extractor
        return store_features(self.store, windows, extractor, name, self.split, sharing, transform)

    def fvd(self, fake: FeatureSet) -> dict[str, Any]:
        """Return the FVD between the real clips and other clips, as JSON."""
        result = compare(self.real, fake, self.protocol)._asdict()
        return {
            **{name: result[name] for name in ("value", "num_real", "num_fake")},
            **beside_fvd(self.real, fake, self.protocol, self.network),
            "warnings": list(result["warnings"]),
        }

    def floor(self) -> dict[str, Any] | None:
        """Return the FVD between disjoint sets of real clips; None for too few clips or videos."""
        found = compare(self.real, self.real, self.protocol).floor
        return None if found is None else found._asdict()
