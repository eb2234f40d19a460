"""The tokenizer that comes with the package, known by the name "starter".

`save_pretrained` wrote the tokenizer's folder, in bfloat16; sha256.json in this folder gives the
SHA-256 of each file. This module does not import torch.
"""

from pathlib import Path

from video_vq.errors import InputError
from video_vq.stores.files import read_json, sha256_file

STARTER = "starter"
FOLDER = Path(__file__).parents[1] / "weights" / STARTER
HASHES = "sha256.json"  # the SHA-256 of each file, by name


def named(name: str | Path) -> Path:
    """Return the path that a model name refers to.

    Args:
        name: a path, or "starter" for the starter's folder, unless the path "starter" exists.
    """
    return FOLDER if str(name) == STARTER and not Path(name).exists() else Path(name)


def require_whole() -> None:
    """Check that the starter's files are complete and match their SHA-256 hashes.

    Raises:
        InputError: the package has no starter, or one of its files is missing or damaged.
    """
    if not (FOLDER / HASHES).is_file():
        raise InputError(
            "starter: this version of video-vq comes without a starter tokenizer; train your own "
            "with `video-vq train-tokenizer --config starter`, and name its run folder"
        )
    for name, expected in read_json(FOLDER / HASHES, "the sha256 of the starter's files").items():
        file = FOLDER / name
        found = sha256_file(file) if file.is_file() else "none"
        if found != expected:
            raise InputError(
                f"{file}: is missing or damaged (its sha256 is {found:.12}, expected "
                f"{expected!s:.12}); install video-vq again"
            )
