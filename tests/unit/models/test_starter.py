"""Tests of the tokenizer that comes with the package, and of a tiny replacement."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from video_vq.cli import main
from video_vq.errors import InputError
from video_vq.media.encode import write_frames
from video_vq.models import starter
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.models.tokenizer_config import ConvBackboneConfig, TokenizerConfig, TokenizerFacts
from video_vq.quantizers.quantizer_config import QuantizerConfig
from video_vq.training.initial import starting_tokenizer
from video_vq.training.training_config import TokenizerTrainingConfig

SHIPPED = starter.FOLDER
CONFIG = TokenizerConfig(
    ConvBackboneConfig(
        channels=8, num_blocks=1, multipliers=(1, 1), strides_thw=((2, 2, 2),), causal=True
    ),
    QuantizerConfig(codebook_size=16, codebook_dim=4),
)


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> VideoTokenizer:
    """Replace the starter by an untrained tokenizer in bfloat16, and return that tokenizer."""
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(CONFIG)
    tokenizer.facts = TokenizerFacts(5, 1, (16, 16), (3, 4, 4), "hash of the clips", 0)
    folder = tmp_path / "package" / "starter"
    tokenizer = tokenizer.eval().to(torch.bfloat16)
    tokenizer.save_pretrained(folder)
    hashes = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("config.json", "model.safetensors")
    }
    (folder / starter.HASHES).write_text(json.dumps(hashes))
    monkeypatch.setattr(starter, "FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    return tokenizer


def test_the_name_loads_bfloat16_weights_that_compute_in_float32(tiny):
    loaded = VideoTokenizer.from_pretrained("starter")
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype in (torch.float32, torch.int64, torch.bool), name
        assert torch.equal(tensor, tiny.state_dict()[name].to(tensor.dtype)), name
    clips = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    exact = VideoTokenizer(CONFIG).eval()
    exact.load_state_dict({name: t.float() for name, t in tiny.state_dict().items()})
    assert torch.equal(loaded.latents(clips), exact.latents(clips))
    assert loaded.hash == tiny.hash


def test_a_folder_of_that_name_comes_first(tiny, tmp_path):
    other = VideoTokenizer(CONFIG)
    other.facts = tiny.facts
    other.save_pretrained(tmp_path / "starter")
    assert VideoTokenizer.from_pretrained("starter").hash == other.hash != tiny.hash


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_file_is_one_sentence(tiny, name):
    file = starter.FOLDER / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=rf"{name}: is missing or damaged.*install video-vq again"):
        VideoTokenizer.from_pretrained("starter")
    file.unlink()
    with pytest.raises(InputError, match=rf"{name}: is missing or damaged"):
        VideoTokenizer.from_pretrained(starter.FOLDER)


def test_without_weights_the_name_says_how_to_train_one(tiny):
    (starter.FOLDER / starter.HASHES).unlink()
    with pytest.raises(InputError, match=r"comes without a starter.*--config starter"):
        VideoTokenizer.from_pretrained("starter")


def test_it_has_no_revision_and_is_no_prior(tiny):
    with pytest.raises(InputError, match="no revision 'main'"):
        VideoTokenizer.from_pretrained("starter", revision="main")


def test_a_training_starts_from_it(tiny, tmp_path):
    said: list[str] = []
    config = TokenizerTrainingConfig(model=CONFIG, init_from="starter")
    tensors = starting_tokenizer(config, tmp_path / "run", said.append).state_dict()
    assert all(torch.equal(t, tiny.state_dict()[name].to(t.dtype)) for name, t in tensors.items())
    assert said == [f"starting from starter, hash {tiny.hash}"]


def test_reconstruct_takes_it_without_a_tokenizer_and_says_so(tiny, tmp_path, capsys):
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    write_frames(tmp_path / "in.mkv", frames, 10)
    assert main(["reconstruct", "in.mkv", "out.mkv"]) == 0
    said = capsys.readouterr().out
    assert "by the starter tokenizer, 4 bits per token" in said
    assert "init_from=starter" in said
    assert "48 tokens" in said
    tiny.save_pretrained("mine")
    assert main(["reconstruct", "in.mkv", "mine.mkv", "--tokenizer", "mine"]) == 0
    assert "starter" not in capsys.readouterr().out


@pytest.mark.skipif(not (SHIPPED / starter.HASHES).exists(), reason="no starter is shipped")
def test_the_shipped_starter_is_whole_small_and_beats_a_grey_picture():
    assert sum(file.stat().st_size for file in Path(SHIPPED).iterdir()) < 12e6
    tokenizer = VideoTokenizer.from_pretrained("starter")
    assert sum(p.numel() for p in tokenizer.parameters()) < 6e6
    y, x = torch.meshgrid(torch.arange(64), torch.arange(96), indexing="ij")
    still = torch.stack([torch.sin(x / 9), torch.cos(y / 7), torch.sin((x + y) / 11)]) * 0.6
    video = still[None, :, None].repeat(1, 1, 9, 1, 1)
    error = (tokenizer(video).video - video).square().mean()
    assert error < 0.2 * video.square().mean()
