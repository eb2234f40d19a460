"""FVD protocols, the conventions under which scores are computed and reported.

Every detail matters: the squared shift of the logits from one kind of resize to another already
exceeds the distance between good models. Each preset, except for the package's own "padded",
follows the published code that its `source` names.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from video_vq.errors import InputError, nearest


@dataclass(frozen=True)
class FVDProtocol:
    """All settings that turn two sets of clips into an FVD score, except for the network's weights.

    Attributes:
        name: name by which users select the protocol.
        resize: kind of bilinear resize without antialiasing: "half-pixel" (PyTorch's
            align_corners=False) or "tf1-legacy" (TensorFlow 1's resize_bilinear, without half-pixel
            centers).
        fit: "squash" scales height and width to the network's size; "crop" scales the short side to
            that size, rounds the long side up, and crops the center.
        pixels: "uint8" if clips are rounded to 8 bits before resizing; "float" if reconstructions
            and samples are scored unrounded. uint8 clips are treated the same in both cases.
        input_range: largest absolute pixel value in the network's input.
        ddof: delta degrees of freedom: covariances are divided by N - ddof.
        num_frames: number of frames per clip; None lets the caller choose.
        stride: interval between consecutive frames of a clip, in frames of the source video.
        pad_to: number of frames to which a clip is padded by repeating its last frame; None for no
            padding.
        num_real, num_fake: numbers of real and of generated clips; None for all clips.
        source: code that the protocol follows.
        note: differences from the paper, and assumptions; may be empty.
    """

    name: str
    resize: Literal["half-pixel", "tf1-legacy"]
    fit: Literal["squash", "crop"]
    pixels: Literal["uint8", "float"]
    ddof: Literal[0, 1]
    num_frames: int | None
    num_real: int | None
    num_fake: int | None
    source: str
    note: str = ""
    input_range: float = 1.0
    stride: int = 1
    pad_to: int | None = None

    def settings(self) -> dict[str, Any]:
        """Return the settings that determine the score, which are the key for cached statistics."""
        texts = ("source", "note", *(("pad_to",) if self.pad_to is None else ()))
        return {key: value for key, value in asdict(self).items() if key not in texts}

    def feature_settings(self) -> dict[str, Any]:
        """Return the settings that determine a uint8 clip's features, the key for cached features.

        Protocols with equal feature settings share features; the other settings choose clips or
        apply to sets of clips.
        """
        settings = {"resize": self.resize, "fit": self.fit, "input_range": self.input_range}
        return settings if self.pad_to is None else {**settings, "pad_to": self.pad_to}

    @property
    def preparation(self) -> str:
        """Return a name that identifies the feature settings."""
        padded = "" if self.pad_to is None else f"_padded_to_{self.pad_to}"
        return f"{self.resize}_{self.fit}_{self.input_range:g}{padded}"

    def describe(
        self,
        counts: tuple[int, int] | None = None,
        num_frames: int | None = None,
        stride: int | None = None,
    ) -> str:
        """Return a one-line description of the protocol, to cite with a score.

        Args:
            counts: numbers of real and generated clips that were scored; None for the protocol's
                numbers.
            num_frames, stride: length and stride of the clips that were scored; None for the
                protocol's values.
        """
        fit = "squashed" if self.fit == "squash" else "short side, centre crop"
        length = self.num_frames if num_frames is None else num_frames
        frames = "any number of" if length is None else f"{length}"
        num_real, num_fake = counts or (self.num_real, self.num_fake)
        real = "all" if num_real is None else f"{num_real}"
        fake = "all" if num_fake is None else f"{num_fake}"
        title = "FVD"
        if self.pad_to is not None:
            title = "padded FVD, which is not FVD"
            frames += f" frames, the last repeated up to {self.pad_to}"
        return (
            f"{title} ({self.name}): {frames} frames, stride {stride or self.stride}, "
            f"{self.pixels} pixels, {RESIZES[self.resize]} to 224 ({fit}), input range "
            f"[{-self.input_range:g}, {self.input_range:g}], covariance ddof {self.ddof}, "
            f"{real} real against {fake} generated clips"
        )


# I3D needs this many frames: its average pool spans two steps in time, and 8 frames leave one.
LEAST_FRAMES = 9

# How a citation names each resize.
RESIZES = {"half-pixel": "half-pixel bilinear", "tf1-legacy": "tf1-legacy bilinear"}

PADDED = "padded"

_RESIZE_INSIDE = (
    "the original's resize is hidden in a TorchScript file; assumed: half-pixel bilinear per "
    "frame, squashed"
)

PROTOCOLS: dict[str, FVDProtocol] = {
    protocol.name: protocol
    for protocol in (
        FVDProtocol(
            name="styleganv", resize="half-pixel", fit="squash", pixels="uint8",
            ddof=0, num_frames=16, num_real=2048, num_fake=2048,
            source="universome/stylegan-v, src/metrics/frechet_video_distance.py",
            note=_RESIZE_INSIDE,
        ),
        FVDProtocol(
            name="google", resize="tf1-legacy", fit="squash", pixels="float",
            ddof=1, num_frames=None, num_real=None, num_fake=None,
            source="google-research/google-research, frechet_video_distance",
            note="frames and clips are the caller's choice",
        ),
        FVDProtocol(
            name="videogpt", resize="half-pixel", fit="crop", pixels="uint8",
            ddof=1, num_frames=16, num_real=256, num_fake=256, input_range=0.5,
            source="wilson1yan/VideoGPT, videogpt/fvd/fvd.py",
            note="the released code feeds half the range; the paper's numbers come from an "
            "earlier code, which is `tats` with 256 clips",
        ),
        FVDProtocol(
            name="tats", resize="half-pixel", fit="squash", pixels="uint8",
            ddof=1, num_frames=16, num_real=2048, num_fake=2048,
            source="songweige/TATS, tats/fvd/fvd.py",
        ),
        FVDProtocol(
            name="cd-fvd", resize="half-pixel", fit="squash", pixels="uint8",
            ddof=0, num_frames=16, num_real=None, num_fake=2048,
            source="songweige/content-debiased-fvd, cdfvd/fvd.py",
        ),
        FVDProtocol(
            name="larp", resize="half-pixel", fit="squash", pixels="float",
            ddof=0, num_frames=16, num_real=10_000, num_fake=10_000,
            source="hywang66/LARP, utils/fvd_utils.py",
            note=_RESIZE_INSIDE,
        ),
        FVDProtocol(
            name=PADDED, resize="half-pixel", fit="squash", pixels="uint8",
            ddof=0, num_frames=None, num_real=None, num_fake=None, pad_to=16,
            source="no published code",
            note=f"a metric of our own for clips of fewer than {LEAST_FRAMES} frames, which I3D "
            "does not take; it compares neither with FVD nor between clips of different lengths",
        ),
    )
}  # fmt: skip

DEFAULT_PROTOCOL = PROTOCOLS["styleganv"]


Entry = TypeVar("Entry")


def named_entry(table: dict[str, Entry], name: str, what: str, *also: str) -> Entry:
    """Return the table entry with the given name.

    Args:
        also: other valid names to list in the error message.

    Raises:
        InputError: the table has no such entry; the message suggests the most similar name.
    """
    if name not in table:
        known = [*table, *also]
        close = nearest(name, known)
        hint = f"; did you mean {close!r}?" if close else ""
        raise InputError(f"no {what} {name!r}; known: {', '.join(known)}{hint}")
    return table[name]


def fvd_protocol(name: str) -> FVDProtocol:
    """Return the protocol preset with the given name.

    Raises:
        InputError: there is no such preset.
    """
    return named_entry(PROTOCOLS, name, "FVD protocol")


def fvd_protocols(names: str) -> tuple[FVDProtocol, ...]:
    """Return the presets named in a comma-separated list; "all" names all presets without padding.

    Raises:
        InputError: a name is unknown.
    """
    if names == "all":
        return tuple(each for each in PROTOCOLS.values() if each.pad_to is None)
    chosen = dict.fromkeys(name.strip() for name in names.split(","))
    return tuple(named_entry(PROTOCOLS, name, "FVD protocol", "all") for name in chosen)
