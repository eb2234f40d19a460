"""Tests of saving and loading models: bit-exact, strict, and without executing anything."""

import json
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from trained import trained_prior, trained_tokenizer

from video_vq.errors import InputError
from video_vq.models.pretrained import hash_of
from video_vq.models.prior import Prior
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.quantizers.quantizer_config import FiniteConfig, SimVQConfig


@pytest.fixture
def folder(tmp_path) -> Path:
    trained_tokenizer().save_pretrained(tmp_path / "t")
    return tmp_path / "t"


@pytest.mark.parametrize(
    "make",
    [
        trained_tokenizer,
        trained_prior,
        partial(trained_tokenizer, FiniteConfig(levels=(4, 8))),
        partial(trained_tokenizer, SimVQConfig(codebook_size=32)),
    ],
    ids=["codebook", "prior", "finite", "simvq"],
)
def test_a_model_comes_back_bit_for_bit_with_its_facts_and_hash(make, tmp_path):
    model = make()
    saved = model.save_pretrained(tmp_path / "run" / model.kind)
    loaded = type(model).from_pretrained(str(tmp_path / "run"))  # the run folder is enough
    assert (loaded.hash, loaded.facts, loaded.config) == (saved, model.facts, model.config)
    for (name, value), (other, copy) in zip(
        sorted([*model.named_parameters(), *model.named_buffers()]),
        sorted([*loaded.named_parameters(), *loaded.named_buffers()]),
        strict=True,
    ):
        assert name == other
        assert torch.equal(value, copy)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    files = {file.name for file in (tmp_path / "run" / model.kind).iterdir()}
    assert files == {"config.json", "model.safetensors", "README.md"}


def test_a_loaded_tokenizer_reconstructs_as_the_saved_one(folder):
    video = torch.rand(2, 3, 4, 16, 16) * 2 - 1
    expected = trained_tokenizer().reconstruct(video)
    assert torch.equal(VideoTokenizer.from_pretrained(folder).reconstruct(video), expected)


def test_a_missing_an_extra_and_a_misshapen_tensor_are_named(folder):
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    missing = {name: value for name, value in tensors.items() if name != "encoder.norm.scale"}
    safetensors.torch.save_file(missing, file)
    with pytest.raises(InputError, match=r"missing: encoder\.norm\.scale"):
        VideoTokenizer.from_pretrained(folder)
    safetensors.torch.save_file({**tensors, "extra": torch.zeros(1)}, file)
    with pytest.raises(InputError, match="not part of the model: extra"):
        VideoTokenizer.from_pretrained(folder)
    safetensors.torch.save_file({**tensors, "encoder.norm.scale": torch.zeros(3)}, file)
    with pytest.raises(InputError, match=r"encoder\.norm\.scale: expected \(16,\) torch\.float32"):
        VideoTokenizer.from_pretrained(folder)
    half = {**tensors, "encoder.norm.scale": tensors["encoder.norm.scale"].half()}
    safetensors.torch.save_file(half, file)
    with pytest.raises(InputError, match=r"found \(16,\) torch\.float16"):
        VideoTokenizer.from_pretrained(folder)


def test_a_changed_weight_or_setting_is_noticed_by_the_hash(folder):
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    changed = {**tensors, "encoder.norm.scale": tensors["encoder.norm.scale"] + 1}
    safetensors.torch.save_file(changed, file)
    with pytest.raises(InputError, match="the hash differs"):
        VideoTokenizer.from_pretrained(folder)
    safetensors.torch.save_file(tensors, file)
    VideoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["model"]["quantizer"]["commitment_direction"] = "x"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no such setting"):
        VideoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "prior"}, "expected a tokenizer written by video-vq, found kind 'prior'"),
        ({"version": 2}, "has version 2, this program reads 1"),
        ({"model": []}, "holds no model settings"),
        ({"facts": {}}, "trained_on: missing"),
        ({"hash": 7}, "names no hash"),
        ({"format": ["video-vq model"]}, "expected a tokenizer written by video-vq"),
    ],
)
def test_a_config_that_is_no_config_is_refused(folder, change, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError, match=message):
        VideoTokenizer.from_pretrained(folder)


def test_a_config_that_asks_for_more_than_the_file_holds_costs_no_memory(folder):
    config = json.loads((folder / "config.json").read_text())
    config["model"]["quantizer"]["codebook_size"] = 1 << 20
    config["model"]["backbone"]["channels"] = 1024
    config["model"]["backbone"]["multipliers"] = [16, 16]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="does not fit the model"):
        VideoTokenizer.from_pretrained(folder)


class _Canary:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_in_the_folder_are_never_executed(folder, tmp_path):
    sung = tmp_path / "sung"
    song = pickle.dumps(_Canary(sung))
    for name in ("pytorch_model.bin", "model.pt", "model.pkl", "config.pkl"):
        (folder / name).write_bytes(song)
    VideoTokenizer.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(song)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        VideoTokenizer.from_pretrained(folder)
    torch.save({"weights": _Canary(sung)}, folder / "model.safetensors")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        VideoTokenizer.from_pretrained(folder)
    assert not sung.exists()


def test_a_folder_that_is_no_model_says_what_was_expected(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such folder; name a prior's folder, or its run"):
        Prior.from_pretrained(tmp_path / "none")
    with pytest.raises(InputError, match=r"no such file \(expected the config of a prior\)"):
        Prior.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="is a folder here, which has no revision 'v1'"):
        Prior.from_pretrained(tmp_path, revision="v1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("two/slashes/here", "none", "../x", "a/b c", "-a/b", "a/", "ä/b"):
        with pytest.raises(InputError, match=r"no such folder here, and a model of the Hugging"):
            Prior.from_pretrained(name)


def test_a_model_of_unknown_origin_is_not_saved(tmp_path):
    tokenizer = VideoTokenizer(trained_tokenizer().config)
    with pytest.raises(InputError, match=r"set \.facts to a TokenizerFacts"):
        tokenizer.save_pretrained(tmp_path / "t")
    with pytest.raises(InputError, match="no hash before it is loaded or saved"):
        _ = tokenizer.hash
    assert not (tmp_path / "t").exists()


def test_a_readme_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "README.md").write_text("# My thesis\n")
    with pytest.raises(InputError, match="is not a model card of video-vq and would be replaced"):
        trained_tokenizer().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My thesis\n"
    (tmp_path / "README.md").unlink()
    trained_tokenizer().save_pretrained(tmp_path)
    trained_tokenizer().save_pretrained(tmp_path, license="cc-by-4.0")
    assert "license: cc-by-4.0\n" in (tmp_path / "README.md").read_text()


def test_the_package_alone_loads_neither_torch_nor_av():
    code = (
        "import sys, video_vq\n"
        "loaded = {'torch', 'av', 'decord', 'numpy'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "assert not hasattr(video_vq, 'VQGAN')\n"
        "from video_vq import Prior, VideoTokenizer\n"
        "assert Prior.kind == 'prior' and VideoTokenizer.kind == 'tokenizer'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_saved_before_a_setting_was_there_still_loads(tmp_path):
    tokenizer = trained_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model"]["backbone"].pop("kind") == "conv"
    tensors = safetensors.torch.load((tmp_path / "model.safetensors").read_bytes())
    config["hash"] = hash_of(config["model"], tensors)
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = VideoTokenizer.from_pretrained(tmp_path)
    assert loaded.config == tokenizer.config
    assert loaded.hash == config["hash"]
    config["model"]["backbone"]["causal"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="the hash differs"):
        VideoTokenizer.from_pretrained(tmp_path)
