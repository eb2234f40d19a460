"""The model card: what a model is, its scores with their protocol, and how to load it.

Whatever comes from outside (class names, scores) is escaped: it is shown, never interpreted.
"""

import math
import re
import unicodedata
from pathlib import Path
from typing import Any

import yaml

from video_vq.config import check_config
from video_vq.errors import InputError
from video_vq.facts import codes as told_codes
from video_vq.models.tokenizer_config import TokenizerConfig
from video_vq.stores.files import read_json

LIBRARY = "video-vq"
PIPELINES = {"tokenizer": "video-to-video", "prior": "other"}
TAGS = {
    "tokenizer": ["video", "video-tokenizer", "vector-quantization", "vq-vae", "rotation-trick"],
    "prior": ["video", "video-generation", "autoregressive", "vector-quantization"],
}
MAX_TEXT = 200  # characters of one name
MAX_CLASSES = 200

LOAD = {
    "tokenizer": """\
import torch
from video_vq import VideoTokenizer

tokenizer = VideoTokenizer.from_pretrained("{name}")
codes = tokenizer.encode(torch.zeros(1, {t}, {h}, {w}, 3, dtype=torch.uint8))  # b t h w c, RGB
video = tokenizer.decode(codes)  # b c t h w in [-1, 1]
""",
    "prior": """\
import torch
from video_vq import Prior
from video_vq.models.sampling import sample_tokens

prior = Prior.from_pretrained("{name}")
tokens = sample_tokens(prior, seeds=[0, 1]{conditions})  # n t h w{level}
# `VideoTokenizer.decode(tokens)` of the tokenizer named below turns them into video.
""",
}


def model_card(
    name: str,
    config: dict[str, Any],
    num_parameters: int,
    scores: str | Path | dict[str, Any] | None,
    license: str | None,
) -> str:
    """Return the card as markdown with YAML front matter.

    Args:
        name: the name to load the model by, shown in the code.
        config: contents of the model folder's config.json.
        num_parameters: number of the model's parameters.
        scores: what `video-vq evaluate` returned, or the path of its scores.json; None for none.
        license: an identifier of the Hub; None leaves it out.

    Raises:
        InputError: the scores are damaged or another model's, or the licence is not an identifier.
    """
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.\-]{0,63}", license):
        raise InputError(
            f'license {license!r}: expected an identifier of the Hub such as "mit", "cc-by-4.0" '
            'or "other"'
        )
    kind = config["kind"]
    front = {
        **({} if license is None else {"license": license}),
        "library_name": LIBRARY,
        "pipeline_tag": PIPELINES[kind],
        "tags": TAGS[kind],
    }
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        _heading(config),
        f"With the package video-vq:\n\n```python\n{_code(name, config)}```",
        _facts(config, num_parameters),
        _scores(None if scores is None else read_scores(scores), config),
    ]
    return "\n\n".join(sections) + "\n"


def is_our_card(file: Path) -> bool:
    """Whether a README.md is missing or a model card that this program may replace."""
    if not file.exists():
        return True
    with open(file, encoding="utf-8", errors="replace") as stream:
        return f"library_name: {LIBRARY}\n" in stream.read(2000)


def read_scores(scores: str | Path | dict[str, Any]) -> dict[str, Any]:
    """Return scores, read from scores.json when they are a path.

    Raises:
        InputError: the scores are missing.
    """
    if isinstance(scores, dict):
        return scores
    path = Path(scores)
    return read_json(path / "scores.json" if path.is_dir() else path, "scores")


def escaped(value: Any) -> str:
    """Return any value as markdown that shows it as it is, on one line.

    Control, format and private characters become visible escapes, HTML becomes entities, every
    other ASCII punctuation mark gets the backslash that takes its meaning away (CommonMark 2.4).
    """
    text = str(value)
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT - 1] + "…"
    shown = []
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            shown.append(f"\\\\u\\{{{ord(character):x}\\}}")
        elif character in "&<>":
            shown.append({"&": "&amp;", "<": "&lt;", ">": "&gt;"}[character])
        elif character.isascii() and not character.isalnum() and character != " ":
            shown.append("\\" + character)
        else:
            shown.append(character)
    return "".join(shown)


def _heading(config: dict[str, Any]) -> str:
    facts = config["facts"]
    size = f"{facts['num_frames']} x {_times(facts['frame_size_hw'])}"
    if config["kind"] == "tokenizer":
        quantizer = check_config(TokenizerConfig, config["model"], "the model's config").quantizer
        return (
            "# Video tokenizer\n\n"
            f"Clips of {size} (frames x height x width) to {_times(facts['grid_thw'])} tokens "
            f"{_codebook(quantizer.vocabulary)}, and back."
        )
    return (
        "# Prior over video tokens\n\n"
        f"Samples the {_times(config['model']['grid_thw'])} tokens of clips of {size} "
        "(frames x height x width)."
    )


def _codebook(vocabulary: tuple[int, ...]) -> str:
    if len(vocabulary) == 1:
        return f"of a codebook of {vocabulary[0]}"
    return f"of {len(vocabulary)} codes each, of codebooks of {told_codes(vocabulary)}"


def _code(name: str, config: dict[str, Any]) -> str:
    height, width = config["facts"]["frame_size_hw"]
    model, conditions = config["model"], ""
    if model.get("num_classes"):
        conditions += ", class_labels=torch.tensor([0, 0])"
    if model.get("num_action_dims"):
        shape = (2, model["grid_thw"][0], model["num_action_dims"])
        conditions += f", actions=torch.zeros{shape}"
    return LOAD[config["kind"]].format(
        name=name,
        level=" level" if model.get("levels") else "",
        t=config["facts"]["num_frames"],
        h=height,
        w=width,
        conditions=conditions,
    )


def _facts(config: dict[str, Any], num_parameters: int) -> str:
    facts = config["facts"]
    rows: list[tuple[str, str]] = [
        ("parameters", f"{num_parameters:,}"),
        ("of dtype", config.get("dtype", "float32")),
        ("hash of config and tensors", f"`{config['hash']}`"),
        ("optimizer steps", f"{facts['steps']:,}"),
        ("trained on (content hash of the store)", escaped(facts["trained_on"])),
    ]
    if config["kind"] == "tokenizer":
        rows.append(("frames of a clip lie apart by", f"{facts['stride']}"))
    else:
        rows.append(("tokenizer (its hash)", escaped(facts["tokenizer_hash"])))
        rows.append(("frames per second", escaped(facts["fps"] or "unknown")))
        classes = facts["classes"]
        listed = ", ".join(escaped(name) for name in classes[:MAX_CLASSES])
        more = f" and {len(classes) - MAX_CLASSES} more" if len(classes) > MAX_CLASSES else ""
        rows.append((f"classes ({len(classes)})", f"{listed}{more}" or "none"))
    return "## What it is\n\n" + _table(("", ""), rows)


def _scores(scores: dict[str, Any] | None, config: dict[str, Any]) -> str:
    if scores is None:
        return (
            "## Scores\n\nNone yet: run `video-vq evaluate`, then save or push the model with "
            "`scores=` and the folder of its scores.json."
        )
    kind = config["kind"]
    scored = scores.get("tokenizer") if kind == "tokenizer" else _at(scores, "identity", "prior")
    if scored != config["hash"]:
        raise InputError(
            f"the scores are of the {kind} {str(scored)[:12]}…, this one is "
            f"{config['hash'][:12]}…; run `video-vq evaluate` on this one"
        )
    rows = _reconstruction(scores)
    if kind == "prior":
        rows += _generation(scores)
    floor = scores.get("floor")
    if floor is None:
        rows.append(("FVD floor, real against real", "too few clips", ""))
    else:
        num = f"N = {_count(scores, 'floor', 'num_clips')}"
        rows.append(("FVD floor, real against real", _number(scores, "floor", "distance"), num))
    return "\n\n".join(
        [
            "## Scores\n\n" + _table(("", "value", "on"), rows),
            f"Split {escaped(scores.get('split'))}, {_count(scores, 'num_clips')} clips of "
            f"{_count(scores, 'num_frames')} frames, {_count(scores, 'frame_stride')} apart; FVD "
            f"of the first {_count(scores, 'num_frames_in_fvd')}. At its N a distance near the "
            "floor cannot be distinguished from the distance of the data from themselves; only "
            "scores of one "
            "protocol and one N can be compared.",
            f"FVD protocol: {_protocol(scores)}. "
            f"Data (content hash): {escaped(scores.get('data'))}.",
            *_warnings(scores, kind),
        ]
    )


def _protocol(scores: dict[str, Any]) -> str:
    protocol = _at(scores, "protocol")
    if not isinstance(protocol, dict):
        raise _damaged("protocol", protocol)
    # The actual numbers of clips and frames stand beside the scores.
    settings = [
        f"{escaped(key)} {escaped(value)}"
        for key, value in protocol.items()
        if key not in ("num_real", "num_fake", "num_frames", "stride")
    ]
    sha256 = escaped(scores.get("network_sha256"))
    return "; ".join([*settings, f"network sha256 {sha256}"])


def _warnings(scores: dict[str, Any], kind: str) -> list[str]:
    """Return the warnings that the scores themselves call for, a paragraph each."""
    places = [("reconstruction", "rfvd")]
    if kind == "prior" and "generation" in scores:
        places.append(("generation", "gfvd"))
    said: list[Any] = []
    for place in places:
        warnings = _at(scores, *place, "warnings")
        if not isinstance(warnings, list):
            raise _damaged(".".join([*place, "warnings"]), warnings)
        said += warnings
    if scores.get("split") == "train":
        said.append("the clips are of the training split: these scores flatter the model")
    made_by = scores.get("made_by")
    data = made_by.get("data") if isinstance(made_by, dict) else None
    if isinstance(data, dict) and data.get("simulated") is not None:
        said.append(
            f"the videos are simulated ({data['simulated']}): no score compares with a published "
            "one"
        )
    return [f"**Beware:** {escaped(warning)}." for warning in dict.fromkeys(map(str, said))]


def _reconstruction(scores: dict[str, Any]) -> list[tuple[str, str, str]]:
    where = ("reconstruction",)
    return [
        ("PSNR, dB", _number(scores, *where, "psnr", "mean"), _clips(scores)),
        ("SSIM", _number(scores, *where, "ssim", "mean"), _clips(scores)),
        ("rFVD", _number(scores, *where, "rfvd", "value"), _pairs(scores, *where, "rfvd")),
        ("code usage, of K", _number(scores, *where, "codebook", "code_usage"), _clips(scores)),
    ]


def _generation(scores: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    if "prior" in scores:
        num = f"{_count(scores, 'prior', 'num_grids')} clips"
        rows.append(("bits per token", _number(scores, "prior", "bits_per_token"), num))
    if "generation" in scores:
        where = ("generation", "gfvd")
        rows.append(("gFVD", _number(scores, *where, "value"), _pairs(scores, *where)))
    return rows


def _clips(scores: dict[str, Any]) -> str:
    return f"{_count(scores, 'num_clips')} clips"


def _pairs(scores: dict[str, Any], *keys: str) -> str:
    real, fake = _count(scores, *keys, "num_real"), _count(scores, *keys, "num_fake")
    return f"{real} real, {fake} generated clips"


def _at(scores: dict[str, Any], *keys: str) -> Any:
    value: Any = scores
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise _damaged(".".join(keys), None)
        value = value[key]
    return value


def _number(scores: dict[str, Any], *keys: str) -> str:
    value = _at(scores, *keys)
    if value is None:
        return "exact"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _damaged(".".join(keys), value)
    return f"{value:.3f}"


def _count(scores: dict[str, Any], *keys: str) -> int:
    value = _at(scores, *keys)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _damaged(".".join(keys), value)
    return value


def _damaged(key: str, value: Any) -> InputError:
    return InputError(
        f"the scores hold no usable {key} (found {value!r:.80}); give what `video-vq evaluate` "
        "wrote to scores.json"
    )


def _times(sides: list[int]) -> str:
    return " x ".join(str(side) for side in sides)


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
