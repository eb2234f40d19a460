"""Tests of `video-vq reconstruct`: a video beside its reconstruction."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from trained import trained_tokenizer

from video_vq.cli import main
from video_vq.media.decode import FrameStream
from video_vq.media.encode import write_animation, write_frames
from video_vq.media.probe import probe
from video_vq.models.tokenizer import VideoTokenizer, to_uint8
from video_vq.models.tokenizer_config import (
    ConvBackboneConfig,
    TimeSformerConfig,
    TokenizerConfig,
    TokenizerFacts,
)
from video_vq.quantizers.codebook import Codebook
from video_vq.quantizers.quantizer_config import QuantizerConfig

GAP = 4


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> dict[str, Path]:
    """Return the folders of a causal, a non-causal and a TimeSformer tokenizer, by name."""
    folder = tmp_path_factory.mktemp("tokenizers")
    models = {"clips": trained_tokenizer()}
    conv = ConvBackboneConfig(
        channels=8, num_blocks=1, multipliers=(1, 2), strides_thw=((2, 2, 2),), causal=True
    )
    fixed = TimeSformerConfig(
        size_thw=(4, 16, 16), patch_thw=(1, 4, 4), width=16, depth=1, heads=2, mlp_width=16
    )
    for name, backbone, num_frames in (("causal", conv, 5), ("timesformer", fixed, 4)):
        torch.manual_seed(0)
        model = VideoTokenizer(TokenizerConfig(backbone, QuantizerConfig(codebook_size=32)))
        clips = torch.rand(4, 3, num_frames, 16, 16) * 2 - 1
        codebook = model.quantizer.codebook
        assert isinstance(codebook, Codebook)
        with torch.no_grad():
            codebook.codes.copy_(model.latents(clips)[:32])
        grid = backbone.grid_thw((num_frames, 16, 16))
        model.facts = TokenizerFacts(num_frames, 1, (16, 16), grid, "hash of the clips", 6)
        models[name] = model.eval()
    for name, model in models.items():
        model.save_pretrained(folder / name)
    return {name: folder / name for name in models}


def picture(num_frames: int, height: int, width: int) -> np.ndarray:
    """Return frames of a smooth moving pattern, which a codec preserves well."""
    t, y, x = np.mgrid[:num_frames, :height, :width]
    waves = [np.sin(t / 3 + place / 7) for place in (y, x, x + y)]
    return np.rint(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


def file_of(path: Path, frames: np.ndarray, fps: float = 12.5, turned: bool = False) -> Path:
    if not turned:
        write_frames(path, frames, fps)
        return path
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=12, options={"crf": "1"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.set_display_rotation(90)
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def frames_of(path: Path) -> np.ndarray:
    return np.stack(list(FrameStream(probe(path))))


def test_a_frame_folder_and_an_array_are_reconstructed_as_files_are(tmp_path, tokenizers, capsys):
    frames = picture(7, 34, 46)
    (tmp_path / "frames").mkdir()
    for place, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{place}.png")
    np.savez(tmp_path / "x.npz", videos=np.stack([frames[::-1], frames]))
    by = ("--tokenizer", str(tokenizers["causal"]))
    made = []
    for source in ("frames", "x.npz#videos:1"):
        out = tmp_path / f"{len(made)}.mp4"
        assert main(["reconstruct", str(tmp_path / source), str(out), "--fps", "9", *by]) == 0
        made.append(frames_of(out))
        assert probe(out).fps == 9
    assert np.array_equal(*made)
    assert np.abs(made[0][:, :, :46].astype(int) - frames).mean() < 8
    refused = str(tmp_path / "no.mp4")
    assert main(["reconstruct", str(tmp_path / "frames"), refused, *by]) == 1
    assert main(["reconstruct", str(tmp_path / "x.npz"), refused, "--fps", "9", *by]) == 1
    said = capsys.readouterr().err
    assert "does not give a frame rate; name one with --fps" in said
    assert "holds 2 videos; name one, for example x.npz#videos:1" in said


def halves(path: Path, width: int) -> tuple[np.ndarray, np.ndarray]:
    frames = frames_of(path)
    return frames[:, :, :width], frames[:, :, width + GAP : 2 * width + GAP]


@pytest.mark.parametrize("kind", ["causal", "clips"])
@pytest.mark.parametrize(
    ("size", "fps"), [((1, 18, 30), 12.5), ((22, 34, 46), 29.97), ((41, 8, 8), 5)]
)
def test_left_is_the_file_and_right_what_the_tokenizer_makes_of_it(
    tmp_path, tokenizers, capsys, kind, size, fps
):
    source = file_of(tmp_path / "in.mp4", picture(*size), fps)
    out = tmp_path / "out.mp4"
    assert main(["reconstruct", str(source), str(out), "--tokenizer", str(tokenizers[kind])]) == 0
    num_frames, height, width = size
    assert f"{num_frames} frames of {height}x{width}, original left" in capsys.readouterr().out
    info = probe(out)
    assert info.num_packets == num_frames
    assert info.fps == pytest.approx(fps, rel=1e-4)
    assert (info.container, info.codec) == ("mov,mp4,m4a,3gp,3g2,mj2", "h264")
    frames = frames_of(source)
    left, right = halves(out, width)
    assert np.abs(left.astype(int) - frames).mean() < 4
    copy = straight(VideoTokenizer.from_pretrained(tokenizers[kind]), frames)
    assert np.abs(right.astype(int) - copy).mean() < 4


def straight(tokenizer: VideoTokenizer, frames: np.ndarray) -> np.ndarray:
    """Reconstruct directly: pad by repeating the edges, reconstruct, crop to the original size."""
    num_frames, height, width = frames.shape[:3]
    stride_t, stride_h, stride_w = tokenizer.config.backbone.total_stride_thw
    causal = tokenizer.config.backbone.causal
    fill = (1 - num_frames) % stride_t if causal else -num_frames % 4
    sides = [(0, fill), (0, -height % stride_h), (0, -width % stride_w), (0, 0)]
    clip = torch.from_numpy(np.pad(frames, sides, mode="edge"))[None]
    clips = [clip] if causal else list(clip.split(4, dim=1))
    copy = torch.cat([to_uint8(tokenizer.reconstruct(each)) for each in clips], 1)
    return copy[0, :num_frames, :height, :width].numpy()


def test_a_turned_file_is_shown_upright_and_an_odd_one_whole(tmp_path, tokenizers):
    source = file_of(tmp_path / "turned.mp4", picture(5, 32, 48), turned=True)
    out = tmp_path / "out.mp4"
    main(["reconstruct", str(source), str(out), "--tokenizer", str(tokenizers["causal"])])
    left, _ = halves(out, 32)
    assert left.shape == (5, 48, 32, 3)
    assert np.abs(left.astype(int) - frames_of(source)).mean() < 4
    odd = tmp_path / "odd.gif"
    write_animation(odd, picture(7, 33, 21), 10)
    out = tmp_path / "odd.mp4"
    main(["reconstruct", str(odd), str(out), "--tokenizer", str(tokenizers["causal"])])
    assert probe(out).size_hw == (34, 2 * 21 + GAP)
    assert probe(out).num_packets == 7


def test_size_length_and_rate_can_be_named(tmp_path, tokenizers):
    source = file_of(tmp_path / "in.mp4", picture(12, 40, 60))
    out = tmp_path / "out.mp4"
    main(["reconstruct", str(source), str(out), "--tokenizer", str(tokenizers["causal"]),
          "--size", "20", "--num-frames", "7", "--fps", "24"])  # fmt: skip
    info = probe(out)
    assert (info.size_hw, info.num_packets, info.fps) == ((20, 2 * 30 + GAP), 7, 24)


def test_a_backbone_of_one_size_gets_frames_of_that_size(tmp_path, tokenizers, capsys):
    source = file_of(tmp_path / "in.mp4", picture(6, 24, 40))
    out = tmp_path / "out.mp4"
    tokenizer = str(tokenizers["timesformer"])
    assert main(["reconstruct", str(source), str(out), "--tokenizer", tokenizer]) == 0
    assert "6 frames of 16x16" in capsys.readouterr().out
    assert probe(out).size_hw == (16, 2 * 16 + GAP)


@pytest.mark.parametrize(
    ("aspect", "shown_hw"), [(Fraction(4, 3), (36, 64)), (Fraction(2, 3), (54, 48))]
)
def test_pixels_that_are_not_square_are_shown_as_a_player_shows_them(
    tmp_path, tokenizers, capsys, aspect, shown_hw
):
    """In a 48x36 video with wide or narrow pixels, a circle on the screen stays a circle."""
    height, width = shown_hw
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(y - height / 2 + 0.5, x - width / 2 + 0.5) < 14
    disc = np.where(inside[None, ..., None], 240, 10).astype(np.uint8).repeat(3, -1)
    stored = np.asarray(Image.fromarray(disc[0]).resize((48, 36), Image.Resampling.BOX))
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as output:
        stream = output.add_stream("libx264", rate=10, options={"crf": "4", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 48, 36, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(5):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        output.mux(stream.encode(None))
    assert probe(source).pixel_aspect == aspect
    out = tmp_path / "new" / "out.mp4"
    tokenizer = str(tokenizers["causal"])
    assert main(["reconstruct", str(source), str(out), "--tokenizer", tokenizer]) == 0
    said = capsys.readouterr().out
    assert f"5 frames of {height}x{width}, original left" in said
    assert "in.mp4 are not square and were made square" in said
    assert probe(out).pixel_aspect == 1
    left, _ = halves(out, width)
    bright = left[2, :height].mean(-1) > 125
    assert np.abs(bright.astype(int) - inside).mean() < 0.03
    assert abs(bright.any(0).sum() - bright.any(1).sum()) <= 2  # as wide as high


def test_what_cannot_be_done_is_said_and_nothing_is_lost(tmp_path, tokenizers, capsys):
    source = file_of(tmp_path / "in.mp4", picture(5, 16, 16))
    tokenizer = ["--tokenizer", str(tokenizers["causal"])]

    def complaint(*arguments: str | Path) -> str:
        assert main(["reconstruct", *map(str, arguments), *tokenizer]) == 1
        return capsys.readouterr().err

    before = source.read_bytes()
    assert "in.mp4: is the video itself; name another place" in complaint(source, source)
    assert source.read_bytes() == before
    assert "no such file" in complaint(tmp_path / "none.mp4", tmp_path / "out.mp4")
    assert "a video ends in .mp4" in complaint(source, tmp_path / "out.txt")
    error = complaint(source, source / "out.mp4")
    assert "is not a writable folder (Not a directory)" in error
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    assert "is not a video file that FFmpeg understands" in complaint(text, tmp_path / "out.mp4")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(before[: len(before) // 2])
    assert "cut.mp4" in complaint(cut, tmp_path / "out.mp4")
    tokenizer = ["--tokenizer", str(tmp_path)]
    assert "config.json" in complaint(source, tmp_path / "out.mp4")
    assert not list(tmp_path.glob("out*"))
