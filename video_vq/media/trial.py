"""Tests a decoder by decoding a known clip in a separate process.

decord can crash or hang if two versions of FFmpeg conflict; only that process is then lost.
"""

import ctypes
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from video_vq.errors import InputError
from video_vq.media.child import WatchVideo, serve
from video_vq.media.decode import Decoder, FrameStream
from video_vq.media.encode import write_video
from video_vq.media.probe import probe
from video_vq.media.supervisor import Death, Supervisor

MAX_SECONDS = 60.0  # limit on CPU time, and on time without using the CPU
NUM_FRAMES, HEIGHT, WIDTH = 8, 48, 64
MAX_ERROR = 8  # maximum mean difference in gray levels after decoding; H.264 causes about 1


def try_decoder(decoder: Decoder) -> str:
    """Test a decoder in a separate process; return the versions of the decoder's FFmpeg libraries.

    Raises:
        InputError: the decoder crashed, hung, raised an error or returned wrong frames.
    """
    command = (sys.executable, "-c", "from video_vq.media.trial import main; main()")
    with Supervisor(command, 1, MAX_SECONDS) as workers:
        answer = workers.submit(workers.ask, {"decoder": decoder}, lambda _: None).result()
    if isinstance(answer, Death):
        last = answer.last_words.rpartition("\n")[2]
        raise InputError(f"{answer.cause}{': ' if last else ''}{last}")
    if answer["report"] == "failed":
        raise InputError(answer["problem"])
    return f"FFmpeg {answer['ffmpeg']}, libavcodec {answer['libavcodec']}"


def main() -> None:
    """Run the process that tests a decoder."""
    serve(_answer)


def _answer(job: dict[str, Any], watch: WatchVideo) -> dict[str, Any]:
    watch("a clip made here", "decode", MAX_SECONDS)
    try:
        _decode(job["decoder"])
    except Exception as error:  # whatever the error, the decoder cannot be used
        return {"report": "failed", "problem": str(error) or type(error).__name__}
    return {"report": "decoded", **_versions(job["decoder"])}


def _decode(decoder: Decoder) -> None:
    """Write a clip of a moving square, decode the clip, and compare the frames."""
    frames = np.full((NUM_FRAMES, HEIGHT, WIDTH, 3), 64, dtype=np.uint8)
    for index, frame in enumerate(frames):
        frame[16:32, 4 * index : 4 * index + 16] = (200, 120, 40)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        write_video(file, frames, 8)
        stream = FrameStream(probe(file), decoder)
        decoded = np.stack(list(stream))
    if stream.handed_over is not None:
        raise InputError(f"cannot decode H.264 here: {stream.handed_over}")
    if decoded.shape != frames.shape:
        raise InputError(f"gave frames of {decoded.shape}, expected {frames.shape}")
    error = np.abs(decoded.astype(int) - frames.astype(int)).mean()
    if error > MAX_ERROR:
        raise InputError(f"gave frames that are {error:.0f} levels off")


def _versions(decoder: Decoder) -> dict[str, Any]:
    """Return the FFmpeg versions that a decoder has loaded, which are known only after decoding."""
    if decoder == "pyav":
        import av

        libavcodec = ".".join(str(part) for part in av.library_versions["libavcodec"])
        return {"ffmpeg": av.ffmpeg_version_info, "libavcodec": libavcodec}
    # decord does not report versions; its libraries do, and Linux lists the loaded libraries.
    maps = Path("/proc/self/maps").read_text()
    loaded = {
        name: path
        for path, name in re.findall(r"(/\S*/(libavcodec|libavutil)[^/\s]*)$", maps, re.MULTILINE)
        if "decord" in path
    }
    if set(loaded) != {"libavcodec", "libavutil"}:
        return {"ffmpeg": "unknown", "libavcodec": "unknown"}
    packed = ctypes.CDLL(loaded["libavcodec"]).avcodec_version()
    describe = ctypes.CDLL(loaded["libavutil"]).av_version_info
    describe.restype = ctypes.c_char_p
    parts = (packed >> 16, packed >> 8 & 255, packed & 255)
    return {"ffmpeg": describe().decode(), "libavcodec": ".".join(map(str, parts))}
