"""Settings for extracting clips from videos. This module does not import torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from video_vq.config import STRICT

Windows = Literal["random", "uniform", "all"]
ShortVideos = Literal["leave_out", "repeat_last", "loop"]


@dataclass(frozen=True, config=STRICT)
class ClipConfig:
    """Settings that determine which clips are extracted from each video.

    Attributes:
        num_frames: number of frames in a clip.
        stride: number of video frames from one frame of a clip to the next.
        windows: rule that chooses a video's clips in each epoch: "random" for `clips_per_video`
            clips, redrawn in each epoch, with every start equally likely; "uniform" for
            `clips_per_video` clips (fewer if there are fewer possible starts), evenly spaced from
            the video's beginning to its end, or in the middle for a single clip; "all" for the
            clips that start at frames 0, hop, 2·hop, …
        clips_per_video: number of clips per video and epoch, for "random" and "uniform".
        hop: number of frames from one clip's start to the next, for "all"; null for consecutive
            clips without overlap.
        short_videos: treatment of a video that is shorter than a clip: "leave_out" drops the video,
            "repeat_last" repeats the last frame until the clip is full, and "loop" repeats the
            whole video.
    """

    num_frames: Annotated[int, Field(ge=1, le=4096)] = 16
    stride: Annotated[int, Field(ge=1, le=64)] = 1
    windows: Windows = "random"
    clips_per_video: Annotated[int, Field(ge=1, le=4096)] = 1
    hop: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    short_videos: ShortVideos = "leave_out"

    @model_validator(mode="after")
    def _fits_together(self) -> "ClipConfig":
        if self.hop is not None and self.windows != "all":
            raise ValueError(f"hop ({self.hop}) is for windows: all, found windows: {self.windows}")
        if self.clips_per_video != 1 and self.windows == "all":
            raise ValueError(
                f"clips_per_video ({self.clips_per_video}) is for windows: random or uniform, "
                "found windows: all"
            )
        return self

    @property
    def span(self) -> int:
        """Return the number of video frames from a clip's first to last frame, inclusive."""
        return (self.num_frames - 1) * self.stride + 1
