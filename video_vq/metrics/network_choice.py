"""The `--network` option: a user's function, or a published network with its weights."""

import re
from typing import Literal, NamedTuple, get_args

from video_vq.errors import ConfigError

PresetName = Literal["jedi", "videomae"]
# The files in which the weights of each network are published.
PUBLISHED: dict[PresetName, str] = {
    "jedi": "vith16.pth.tar and ssv2-probe.pth.tar of V-JEPA",
    "videomae": "vit_g_hybrid_pt_1200e_ssv2_ft.pth of VideoMAE v2",
}
I3D_NAME = "i3d-kinetics-400"
HUB = "hf://"
SHA256 = re.compile(r"[0-9a-f]{64}")


class WeightsFile(NamedTuple):
    """A path or hf://org/name/file, and the SHA-256 that the file must have; None if not given."""

    place: str
    sha256: str | None


class Preset(NamedTuple):
    """The name of a published network, and the files that contain its weights."""

    name: PresetName
    files: tuple[WeightsFile, ...]


def read_preset(text: str) -> Preset | None:
    """Return the published network that `--network` names, or None for module:function.

    Raises:
        ConfigError: no weights file is given, or the path of a weights file is empty.
    """
    name, _, files = text.partition("=")
    [preset] = [one for one in get_args(PresetName) if one == name] or [None]
    if preset is None:
        return None
    if not files:
        raise ConfigError(
            f"--network {preset}: its weights are not downloaded; write {preset}=FILE with "
            f"{PUBLISHED[preset]} (several files with commas, each as FILE.safetensors or "
            f"FILE@SHA256, here or on the Hub: {HUB}org/name/FILE)"
        )
    return Preset(preset, tuple(_read_file(text, file) for file in files.split(",")))


def _read_file(text: str, file: str) -> WeightsFile:
    place, _, sha256 = file.rpartition("@")
    found = WeightsFile(place, sha256) if SHA256.fullmatch(sha256) else WeightsFile(file, None)
    if not found.place:
        raise ConfigError(
            f"--network {text}: write a file as FILE or FILE@SHA256, 64 digits of 0-9 and a-f"
        )
    return found


def network_name(text: str) -> str:
    """Return the name of a published network without its weights, or module:function unchanged.

    Raises:
        ConfigError: as for `read_preset`.
    """
    preset = read_preset(text)
    return text if preset is None else preset.name
