"""A folder of raw data that we make ourselves: claimed for one plan, never mixed with others."""

from pathlib import Path
from typing import Any

from video_vq.errors import InputError
from video_vq.stores.files import difference, read_json, write_json
from video_vq.stores.lock import LOCK


def claim_folder(out: Path, marker: str, plan: dict[str, Any], what: str) -> bool:
    """Claim a folder for a plan; return whether it is complete already.

    Args:
        out: made if it is missing.
        marker: name of the file in it that holds the plan.
        plan: what decides every byte.
        what: the folder is to hold, for messages.

    Raises:
        InputError: it is a file, holds something else, or was made by another plan.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a folder for the {what}")
    path = out / marker
    if path.exists():
        found = read_json(path, f"the record of {what}")
        lines = difference(found.get("plan"), plan)
        if lines:
            shown = "\n  ".join(lines)
            raise InputError(
                f"{out}: was made with other settings (was -> now):\n  {shown}\n"
                "Name another folder, repeat the old settings, or delete this one."
            )
        return found.get("complete") is True
    if out.exists() and any(entry.name != LOCK for entry in out.iterdir()):
        raise InputError(f"{out}: holds other files and no {marker}; name an empty or a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, {"plan": plan, "complete": False})
    return False
