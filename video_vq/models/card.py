"""Model cards, which describe a model, its scores and their protocol, and how to load the model.

Class names, scores and all other external text are escaped and never interpreted as markup.
"""

import math
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from video_vq.config import check_config
from video_vq.errors import InputError
from video_vq.facts import codes, score, times
from video_vq.models.tokenizer_config import TokenizerConfig
from video_vq.stores.files import read_json

LIBRARY = "video-vq"
PIPELINES = {"tokenizer": "video-to-video", "prior": "other"}
TAGS = {
    "tokenizer": ["video", "video-tokenizer", "vector-quantization", "vq-vae", "rotation-trick"],
    "prior": ["video", "video-generation", "vector-quantization"],
}
MAX_TEXT = 200  # characters of one name
MAX_CLASSES = 200


def model_card(
    name: str,
    config: dict[str, Any],
    num_parameters: int,
    scores: str | Path | dict[str, Any] | None,
    license: str | None,
) -> str:
    """Return a model card as Markdown with YAML front matter.

    Args:
        name: name for loading the model, shown in the example code.
        config: contents of the model folder's config.json.
        num_parameters: number of model parameters.
        scores: result of `video-vq evaluate`, the path of scores.json, or the folder that contains
            scores.json; None for a card without scores.
        license: license identifier used on the Hub; None for a card without a license.

    Raises:
        InputError: the scores are missing, damaged or those of another model, or the license
            identifier is invalid.
    """
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.\-]{0,63}", license):
        raise InputError(
            f'license {license!r}: expected an identifier of the Hub such as "mit", "cc-by-4.0" '
            'or "other"'
        )
    kind, facts, model = config["kind"], config["facts"], config["model"]
    front = {
        **({} if license is None else {"license": license}),
        "library_name": LIBRARY,
        "pipeline_tag": PIPELINES[kind],
        "tags": [*TAGS[kind], *([model["transformer"]["kind"]] if kind == "prior" else [])],
    }
    known = None if scores is None else _scores_of(scores, kind, config["hash"])
    templates = Environment(
        loader=PackageLoader("video_vq.models", "."),
        trim_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    templates.filters |= {"escaped": escaped, "times": times}
    return templates.get_template("card.md.j2").render(
        config,
        dtype=config.get("dtype", "float32"),
        front=yaml.safe_dump(front, sort_keys=False),
        name=name,
        size=f"{facts['num_frames']} x {times(facts['frame_size_hw'])}",
        codebook=_codebook(model) if kind == "tokenizer" else None,
        num_parameters=num_parameters,
        most=MAX_CLASSES,
        scores=known,
        number=lambda place: score(_at(known, place, _is_number)),
        count=lambda place: _at(known, place, lambda value: type(value) is int),
        protocol=None if known is None else _protocol(known),
        warnings=None if known is None else _warnings(known, kind),
    )


def is_our_card(file: Path) -> bool:
    """Return whether a README.md is missing, or is a video-vq model card that may be replaced."""
    if not file.exists():
        return True
    with open(file, encoding="utf-8", errors="replace") as stream:
        return f"library_name: {LIBRARY}\n" in stream.read(2000)


def escaped(value: Any) -> str:
    """Return a value as one line of Markdown, escaped so that the text is shown literally.

    The text is cut to `MAX_TEXT` characters. Control, format, private-use and unassigned characters
    become visible escapes, HTML characters become entities, and all other ASCII punctuation is
    escaped with a backslash (CommonMark 2.4).
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


def _codebook(model: dict[str, Any]) -> str:
    sizes = check_config(TokenizerConfig, model, "the model's config").quantizer.vocabulary
    if len(sizes) == 1:
        return f"of a codebook of {sizes[0]}"
    return f"of {len(sizes)} codes each, of codebooks of {codes(sizes)}"


def _scores_of(scores: str | Path | dict[str, Any], kind: str, model_hash: str) -> dict[str, Any]:
    """Return the scores, given directly or as a path, after checking the model hash."""
    if not isinstance(scores, dict):
        path = Path(scores)
        scores = read_json(path / "scores.json" if path.is_dir() else path, "scores")
    scored = (
        scores.get("tokenizer")
        if kind == "tokenizer"
        else _at(scores, "identity.prior", lambda _: True)
    )
    if scored != model_hash:
        raise InputError(
            f"the scores are of the {kind} {str(scored)[:12]}…, this one is "
            f"{model_hash[:12]}…; run `video-vq evaluate` on this one"
        )
    return scores


def _protocol(scores: dict[str, Any]) -> dict[str, Any]:
    protocol = _at(scores, "protocol", lambda value: isinstance(value, dict))
    # The card shows the actual numbers of clips and frames next to the scores.
    beside = ("num_real", "num_fake", "num_frames", "stride")
    return {key: value for key, value in protocol.items() if key not in beside}


def _warnings(scores: dict[str, Any], kind: str) -> dict[str, None]:
    """Return the warnings that apply to the scores, without duplicates."""
    of_samples = ["generation.gfvd"] if kind == "prior" and "generation" in scores else []
    said: list[Any] = []
    for place in ("reconstruction.rfvd", *of_samples):
        said += _at(scores, f"{place}.warnings", lambda value: isinstance(value, list))
    if scores.get("split") == "train":
        said.append("the clips are of the training split: these scores flatter the model")
    made_by = scores.get("made_by")
    data = made_by.get("data") if isinstance(made_by, dict) else None
    if isinstance(data, dict) and data.get("simulated") is not None:
        said.append(
            f"the videos are simulated ({data['simulated']}): no score is comparable with a "
            "published one"
        )
    return dict.fromkeys(map(str, said))


def _at(scores: Any, place: str, fits: Callable[[Any], bool]) -> Any:
    """Return the value for a dotted key; raise an InputError if `fits` rejects the value."""
    value = scores
    try:
        for key in place.split("."):
            value = value[key]
        good = fits(value)
    except (KeyError, TypeError):
        good, value = False, None
    if not good:
        raise InputError(
            f"the scores hold no usable {place} (found {value!r:.80}); give what "
            "`video-vq evaluate` wrote to scores.json"
        )
    return value


def _is_number(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))
