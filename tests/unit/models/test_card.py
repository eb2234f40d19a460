"""Tests of the model card: it qualifies the scores and shows hostile names as text."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from trained import scores_of, trained_prior, trained_tokenizer

from video_vq.errors import InputError
from video_vq.models.card import escaped
from video_vq.models.tokenizer import VideoTokenizer

HOSTILE = (
    "---\nlicense: gpl-3.0\n---",
    "<script>alert(1)</script>",
    "a | b | c",
    "```python\nimport os\n```",
    "[click](javascript:alert(1))",
    "![](http://example.org/x.png)",
    "# heading",
    "&lt;b&gt;",
    "\u202egnp.exe",
    "a\u2028b\rc\x00d",
    "x" * 5000,
)


def test_a_card_says_scores_protocol_counts_floor_origin_and_how_to_load(tmp_path):
    tokenizer = trained_tokenizer()
    model_hash = tokenizer.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path, scores=scores_of(model_hash))
    card = (tmp_path / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert "license" not in front  # nobody named one
    assert front["library_name"] == "video-vq"
    assert front["pipeline_tag"] == "video-to-video"
    assert "vector-quantization" in front["tags"]
    for expected in (
        "| PSNR, dB | 27.250 | 256 clips |",
        "| rFVD | 41.500 | 256 real, 255 generated clips |",
        "| FVD floor, real against real | 12.125 | N = 128 |",
        r"name styleganv; resize half\-pixel; fit squash; pixels uint8",
        "hash of the clips",
        model_hash,
        'VideoTokenizer.from_pretrained("path/to/this/folder")',
    ):
        assert expected in card, expected
    assert "gFVD" not in card


def test_a_loaded_model_counts_its_parameters_like_a_fresh_one(tmp_path):
    tokenizer = trained_tokenizer()
    tokenizer.save_pretrained(tmp_path / "fresh")
    VideoTokenizer.from_pretrained(tmp_path / "fresh").save_pretrained(tmp_path / "loaded")
    counts = [
        re.findall(r"\| parameters \| ([\d,]+) \|", (tmp_path / name / "README.md").read_text())
        for name in ("fresh", "loaded")
    ]
    assert counts[0] == counts[1] == [f"{sum(p.numel() for p in tokenizer.parameters()):,}"]


def test_a_card_says_what_speaks_against_its_scores(tmp_path):
    tokenizer = trained_tokenizer()
    scores = scores_of(tokenizer.save_pretrained(tmp_path))
    scores["split"] = "train"
    scores["reconstruction"]["rfvd"]["warnings"] = ["N = 64 is <b>small</b>"]
    scores["made_by"] = {"data": {"simulated": "a <b>toy</b> world"}}
    tokenizer.save_pretrained(tmp_path, scores=scores)
    card = (tmp_path / "README.md").read_text()
    assert "**Beware:** N \\= 64 is &lt;b&gt;small&lt;\\/b&gt;." in card
    assert "these scores flatter the model" in card
    assert "**Beware:** the videos are simulated" in card
    assert "a &lt;b&gt;toy&lt;\\/b&gt; world" in card


def test_the_code_of_a_card_runs(tmp_path):
    for model, loading in ((trained_tokenizer(), "video ="), (trained_prior(), "tokens =")):
        model.save_pretrained(tmp_path / model.kind)
        card = (tmp_path / model.kind / "README.md").read_text()
        (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert loading in code
        script = tmp_path / f"{model.kind}.py"
        script.write_text(code.replace("path/to/this/folder", str(tmp_path / model.kind)))
        subprocess.run([sys.executable, script], check=True)


def test_a_priors_card_has_rate_and_gfvd_and_reads_scores_from_the_folder(tmp_path):
    prior = trained_prior()
    scores = scores_of("1" * 64, prior.save_pretrained(tmp_path / "p"))
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    prior.save_pretrained(tmp_path / "p", scores=tmp_path)
    card = (tmp_path / "p" / "README.md").read_text()
    assert "| bits per token | 3.250 | 256 clips |" in card
    assert "| gFVD | 99.500 | 256 real, 256 generated clips |" in card
    assert "| classes (2) | left, right |" in card


def test_scores_of_another_model_or_damaged_ones_are_refused(tmp_path):
    tokenizer = trained_tokenizer()
    model_hash = tokenizer.save_pretrained(tmp_path)
    before = (tmp_path / "README.md").read_bytes()
    with pytest.raises(InputError, match=r"the scores are of the tokenizer 00000000"):
        tokenizer.save_pretrained(tmp_path, scores=scores_of("0" * 64))
    for change in (
        {"reconstruction": "good"},
        {"reconstruction": {"psnr": {"mean": "30 | <b>"}}},
        {"reconstruction": {"psnr": {"mean": float("nan")}}},
        {"num_clips": True},
        {"floor": 3},
        {"protocol": ["styleganv"]},
    ):
        with pytest.raises(InputError, match="the scores hold no usable"):
            tokenizer.save_pretrained(tmp_path, scores={**scores_of(model_hash), **change})
    with pytest.raises(InputError, match="no such file"):
        tokenizer.save_pretrained(tmp_path, scores=tmp_path / "none")
    with pytest.raises(InputError, match="expected an identifier of the Hub"):
        tokenizer.save_pretrained(tmp_path, license="mit\ntags: [x]")
    assert (tmp_path / "README.md").read_bytes() == before


def test_a_licence_is_named_when_it_was_given(tmp_path):
    trained_tokenizer().save_pretrained(tmp_path, license="cc-by-4.0")
    assert "\nlicense: cc-by-4.0\n" in (tmp_path / "README.md").read_text()


def test_hostile_class_names_stay_text(tmp_path):
    prior = trained_prior(HOSTILE)
    scores = scores_of("1" * 64, prior.save_pretrained(tmp_path))
    scores |= {"split": "<img src=x>", "data": "](x)", "protocol": {"a\n# b": "| c |"}}
    prior.save_pretrained(tmp_path, scores=scores)
    card = (tmp_path / "README.md").read_text()
    assert card.count("\n---\n") == 1
    assert "license" not in yaml.safe_load(card.split("---\n")[1])
    assert "<" not in card.replace("&lt;", "")
    assert card.count("```") == 2
    # The headings and a comment of the code.
    assert len(re.findall(r"^#+ ", card, re.MULTILINE)) == 4 == card.count("\n#")
    for line in card.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4), line
    assert not re.search(r"[^\\]\]\(", card)
    assert not {"\u202e", "\u2028", "\r", "\x00"} & set(card)
    assert max(len(line) for line in card.splitlines()) < 2500


def test_escaped_text_is_shown_by_a_markdown_reader_as_it_was():
    text = r"""a\b `c` *d* _e_ [f](g) <h> & i | j # k - l + m . n ! o ~ p = q "r" 's' {t} $u$"""
    shown = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", escaped(text))
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        shown = shown.replace(entity, character)
    assert shown == text
