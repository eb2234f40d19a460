"""Store folders, which are filled shard by shard and can be resumed after any interruption.

While a store is unfinished, its `parts/` contains `plan.json`, which describes the store, and a
record such as `shard-00000.json` for each committed shard. Writing the manifest completes the
store; `parts/` is then removed.
"""

import fcntl
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from video_vq.errors import InputError
from video_vq.facts import Facts, made_by
from video_vq.stores.files import (
    PARTIAL,
    read_json,
    readable_json,
    sha256_json,
    told_difference,
    write_json,
)
from video_vq.stores.lock import LOCK

MANIFEST = "manifest.json"
HASH = "sha256"  # field with the hash of a file's other fields, in canonical JSON
PARTS = "parts"
PLAN = f"{PARTS}/plan.json"


def plan_of(path: Path) -> Any:
    """Return the plan of a finished or unfinished store, or None if it has no plan.

    Raises:
        InputError: the plan cannot be read.
    """
    if (path / MANIFEST).exists():
        return read_json(path / MANIFEST, "a store's manifest").get("plan")
    plan_file = path / PARTS / "plan.json"
    return read_json(plan_file, "an unfinished store's plan") if plan_file.exists() else None


def sealed_plan(path: Path) -> dict[str, Any] | None:
    """Return the plan of a store that is finished and has no `parts/` left; None for any other.

    A command that is run again checks only the plan and does not notice a damaged shard;
    `data-prep verify` checks every byte. A plan that differs from the requested plan is reported
    later, after the models have been loaded.
    """
    if not (path / MANIFEST).exists() or (path / PARTS).exists():
        return None
    with suppress(InputError):
        plan = plan_of(path)
        return plan if isinstance(plan, dict) else None
    return None


def describe_unfinished(path: Path) -> tuple[str, Facts]:
    """Return the kind and the details of an unfinished store, for `video-vq info`."""
    plan = read_json(path / PLAN, "an unfinished store's plan")
    kind, unit = ("token", "count") if "tokenizer_hash" in plan else ("clip", "frames")
    records = sorted((path / PARTS).glob("shard-*.json"))
    done = sum(int(read_json(record, "a shard's record")[unit]) for record in records)
    return f"an unfinished {kind} store", {
        "shards done": len(records),
        f"{'clips' if kind == 'token' else 'frames'} done": done,
        "made by": made_by(plan),
        "to finish": "run the command that made it again; it resumes where it stopped",
    }


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object atomically, with an added field that contains the object's SHA-256."""
    write_json(path, {**value, HASH: sha256_json(value)})


def is_sealed(value: dict[str, Any]) -> bool:
    """Return whether a JSON object still matches the SHA-256 that `write_sealed` added."""
    try:
        return value.get(HASH) == sha256_json({k: v for k, v in value.items() if k != HASH})
    except (ValueError, RecursionError):  # NaN and lone surrogates are never written
        return False


def sealed_damage(path: Path) -> str | None:
    """Return a line that describes the damage to a sealed file, or None if the file is intact.

    The hash covers only the values, so the bytes are also compared with the original formatting.
    """
    try:
        value = read_json(path, "sealed JSON")
        intact = is_sealed(value) and path.read_bytes() == readable_json(value)
    except InputError as error:
        return str(error)
    if not intact:
        return f"{path}: its bytes are not those that were written (its own sha256 differs)"
    return None


class ShardFolder:
    """A store folder, with its plan and its record of committed shards.

    Args:
        path: store folder, created if missing.
        plan: JSON object that determines every byte of the store.
        owner: whether to remove the partial files of a killed run. Rank 0 opens the folder first as
            the owner; the other ranks then open the folder with owner=False.

    Raises:
        InputError: the path is a file, or the folder contains other files or a store with a
            different plan.
    """

    def __init__(self, path: Path, plan: dict[str, Any], owner: bool = True):
        self.path = path
        self.parts = path / PARTS
        if (path / MANIFEST).exists():
            self._require_same(plan_of(path), plan)
            if owner:
                shutil.rmtree(self.parts, ignore_errors=True)
            return
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file; name a folder for the store")
        plan_file = self.parts / "plan.json"
        strangers = {entry.name for entry in path.iterdir()} if path.exists() else set()
        if strangers - {PARTS, LOCK} and not plan_file.exists():
            raise InputError(
                f"{path}: holds other files and no {MANIFEST}; "
                "name an empty or a new folder for the store"
            )
        self.parts.mkdir(parents=True, exist_ok=True)
        if plan_file.exists():
            self._require_same(plan_of(path), plan)
        else:
            write_json(plan_file, plan)
        if owner:
            for partial in (*path.glob("*" + PARTIAL), *self.parts.glob("*" + PARTIAL)):
                partial.unlink()

    def _require_same(self, old: Any, new: dict[str, Any]) -> None:
        if isinstance(old, dict) and (was := _kind(old)) != (wanted := _kind(new)):
            raise InputError(
                f"{self.path}: is {was}, but {wanted} should be made there; name another folder"
            )
        lines = told_difference(old, new)
        if lines:
            shown = "\n  ".join(lines[:12])
            advice = "Name another folder, repeat the old settings, or delete this one."
            if any("precision:" in line for line in lines):
                advice += " Without flags, `accelerate launch` sets the precision to no."
            raise InputError(
                f"{self.path}: was made with other settings (was -> now):\n  {shown}\n{advice}"
            )

    @property
    def is_complete(self) -> bool:
        """Return whether the manifest exists."""
        return (self.path / MANIFEST).exists()

    def record_path(self, shard: int) -> Path:
        """Return the path of a shard's commit record."""
        return self.parts / f"shard-{shard:05d}.json"

    def is_committed(self, shard: int) -> bool:
        """Return whether a shard has been committed; in a complete store, every shard has."""
        return self.is_complete or self.record_path(shard).exists()

    @contextmanager
    def locked(self, shard: int) -> Iterator[int]:
        """Lock a shard during a block, because another machine may still be writing the shard.

        Yield the descriptor of the lock file. A child process may inherit the descriptor: the lock
        is released once every process has closed it. On a file system without locks, nothing is
        locked; `acquire` has already printed a warning.
        """
        lock = os.open(self.parts / f"shard-{shard:05d}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)

    def commit(self, shard: int, record: dict[str, Any]) -> None:
        """Record a shard as committed; the shard's files must already be complete."""
        write_json(self.record_path(shard), record)

    def record(self, shard: int) -> dict[str, Any]:
        """Return a committed shard's record."""
        return read_json(self.record_path(shard), "a shard's record")

    def seal(self, manifest: dict[str, Any]) -> None:
        """Complete the store: write the manifest with its SHA-256, and remove `parts/`."""
        write_sealed(self.path / MANIFEST, manifest)
        shutil.rmtree(self.parts)


def _kind(plan: dict[str, Any]) -> str:
    if "tokenizer_hash" in plan:
        return "a token store"
    if plan.get("kind") == "samples":
        return "a store of samples"
    return "a store of decoded tokens" if plan.get("kind") == "decoded tokens" else "a clip store"


def read_manifest(path: Path, format_name: str, version: int, how_to_make: str) -> dict[str, Any]:
    """Return the manifest of a complete store, without its SHA-256.

    Args:
        path: store folder.
        format_name: expected format.
        version: expected format version.
        how_to_make: advice on how to make such a store, for error messages.

    Raises:
        InputError: the store is missing, unfinished, or of a different kind or version, or the
            manifest has been altered.
    """
    if not path.exists():
        raise InputError(f"{path}: no such folder; {how_to_make}")
    if not (path / MANIFEST).exists():
        if (path / PARTS).exists():
            raise InputError(
                f"{path}: this store is unfinished; run the command that made it again; it "
                "resumes where it stopped"
            )
        how_to_make = how_to_make.replace("VIDEOS", shlex.quote(str(path)))
        raise InputError(f"{path}: holds no {MANIFEST}; {how_to_make}")
    manifest = read_json(path / MANIFEST, "a store's manifest")
    if "format" not in manifest:
        raise InputError(
            f"{path / MANIFEST}: is not the manifest of a store, as it names no format; if it "
            f"belongs to a folder of videos, rename it, else {how_to_make}"
        )
    if manifest.get("format") != format_name:
        raise InputError(
            f"{path}: is a {manifest.get('format')!r} store, expected {format_name!r}; "
            f"{how_to_make}"
        )
    if manifest.get("version") != version:
        raise InputError(
            f"{path}: has format version {manifest.get('version')!r}, this program reads "
            f"{version}; {how_to_make}"
        )
    if not is_sealed(manifest):
        raise InputError(
            f"{path / MANIFEST}: is not as it was written (its sha256 differs); "
            f"delete the folder and {how_to_make}"
        )
    del manifest[HASH]
    return manifest
