"""Tests of docs/python.md: its commands, with fewer videos and steps, and its unchanged recipes."""

import re
import shlex
from pathlib import Path

import pytest
from pages import DOCS, code_of

import data_prep.cli
import video_vq
import video_vq.cli

PAGE = (DOCS / "python.md").read_text()
SHORT = "optim.warmup_steps=1 optim.batch_size=2 run.validation_clips=2 run.num_workers=0"
TINY = "model.backbone.channels=8 model.quantizer.codebook_size=32"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Return the folder that the page's commands fill."""
    folder = tmp_path_factory.mktemp("python")
    lines = code_of("python.md", "data").replace("--videos 100", "--videos 16")
    lines = lines.replace("optim.steps=100", f"optim.steps=2 {SHORT} {TINY}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for program, *arguments in map(shlex.split, lines.splitlines()):
            main = {"data-prep": data_prep.cli.main, "video-vq": video_vq.cli.main}[program]
            assert main(arguments) == 0, arguments
    return folder


def printed(mark: str, data: Path, monkeypatch, capsys) -> list[str]:
    """Run a recipe in the folder, and return the lines that it prints."""
    monkeypatch.chdir(data)
    exec(compile(code_of("python.md", mark), mark, "exec"), {"__name__": "__main__"})  # our own
    return capsys.readouterr().out.splitlines()


def test_a_trained_tokenizer(data, monkeypatch, capsys):
    lines = printed("tokenizer", data, monkeypatch, capsys)
    assert lines == ["(2, 4, 8, 8) 32 (2, 16, 32, 32, 3)"]


def test_your_encoder_around_our_quantizer(data, monkeypatch, capsys):
    lines = printed("own-encoder", data, monkeypatch, capsys)
    losses = [float(re.findall(r"loss (\S+),", line)[0]) for line in lines]
    assert len(losses) == 5
    assert losses[-1] < 0.7 * losses[0]
    assert int(re.findall(r"(\d+)% of the codes", lines[-1])[0]) > 20


@pytest.mark.weights
def test_our_metric_in_your_loop(data, monkeypatch, capsys):
    (line,) = printed("own-loop", data, monkeypatch, capsys)
    found = re.fullmatch(
        r"(\S+) FVD \(styleganv\): .* (\d+) real against (\d+) generated clips", line
    )
    assert found is not None
    assert float(found[1]) > 100
    assert found[2] == found[3]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # on a single core
def test_our_clips_in_your_data_loader(data, monkeypatch, capsys):
    lines = printed("own-dataloader", data, monkeypatch, capsys)
    for epoch, line in enumerate(lines):
        assert re.fullmatch(
            rf"epoch {epoch}: \(\d, 16, 32, 32, 3\) torch.uint8, the last a \w+", line
        )
    assert len(lines) == 2


def test_our_tokens_in_your_transformer(data, monkeypatch, capsys):
    *epochs, shape = printed("own-transformer", data, monkeypatch, capsys)
    bits = [float(re.findall(r"(\S+) bits", line)[0]) for line in epochs]
    assert bits[-1] < bits[0]
    assert shape == "(1, 16, 32, 32, 3)"


def test_your_feature_network_in_our_fvd(data, monkeypatch, capsys):
    (line,) = printed("own-network", data, monkeypatch, capsys)
    assert float(line) > 0


def test_the_page_names_everything_and_its_links_lead_somewhere():
    for name in {*video_vq.__all__} - {"__version__"}:
        assert f"`{name}`" in PAGE, name
    headings = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = target.partition("#")
        assert not path or (DOCS / path).exists(), target
        assert not anchor or anchor in anchors, target
    marks = re.findall(r"<!-- ([\w-]+) -->", PAGE)
    tested = re.findall(r'printed\("([\w-]+)"', Path(__file__).read_text())
    assert {*marks} == {*tested, "data"}
    assert len(re.findall(r"^```\w", PAGE, re.MULTILINE)) == len(marks)
