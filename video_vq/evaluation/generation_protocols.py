"""Published protocols for scoring generated videos on UCF-101 and BAIR."""

from typing import Any, NamedTuple

from video_vq.errors import InputError
from video_vq.metrics.protocol import named_entry


class GenerationProtocol(NamedTuple):
    """A protocol for scoring generated videos: the real clips, the samples and the given frames.

    Attributes:
        name: name of the protocol on the command line.
        split: split of the real clips.
        num_real: number of real clips.
        num_fake: number of samples.
        given_frames: number of initial real frames that each sample continues; 0 for none.
        samples_per_clip: number of samples for each real clip.
        note: remark that is reported with the scores.
    """

    name: str
    split: str
    num_real: int
    num_fake: int
    given_frames: int
    samples_per_clip: int
    note: str


GENERATION_PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        GenerationProtocol(
            "ucf101-2048-test", "test", 2048, 2048, 0, 1,
            "held-out reference; most papers score against the training split",
        ),
        GenerationProtocol(
            "ucf101-10k-train", "train", 10_000, 10_000, 0, 1,
            "reference is the training split, as published: it flatters a model that copies",
        ),
        GenerationProtocol(
            "bair-256", "test", 256, 256, 1, 1,
            "frames 0-15 of each test video; frame 0 is given: the plan of the samples says "
            "whether the true one or its reconstruction is scored",
        ),
        GenerationProtocol(
            "bair-256x100", "test", 256, 25_600, 1, 100,
            "frames 0-15 of each test video; frame 0 is given: the plan of the samples says "
            "whether the true one or its reconstruction is scored; 100 samples a video",
        ),
    )
}  # fmt: skip


def generation_protocol(name: str) -> GenerationProtocol:
    """Return the generation protocol with the given name.

    Raises:
        InputError: no generation protocol has this name.
    """
    return named_entry(GENERATION_PROTOCOLS, name, "generation protocol")


def as_scored(protocol: GenerationProtocol, simulated: str | None) -> dict[str, Any]:
    """Return a protocol as JSON, with a remark if the real clips are simulated.

    Args:
        simulated: simulator that made the real clips; None if they are not labeled as simulated.
    """
    told = protocol._asdict()
    if simulated is not None:
        told["simulated"] = simulated
        told["note"] = f"on simulated videos, not on {protocol.name}'s; {protocol.note}"
    return told


def require_protocol(
    protocol: GenerationProtocol, num_real: int, num_fake: int, sampled_with: dict
) -> None:
    """Reject samples or real clips that do not follow a protocol.

    Args:
        num_real, num_fake: number of real clips, and number of samples.
        sampled_with: plan of the clip store of samples.

    Raises:
        InputError: the samples or the real clips do not follow the protocol; the message states the
            difference.
    """
    given = sampled_with.get("given_frames", 0)
    if given != protocol.given_frames:
        raise InputError(
            f"{protocol.name}: samples continue {protocol.given_frames} given frame(s), these were "
            f"given {given}; make them with `video-vq sample --given DATA --samples-per-clip "
            f"{protocol.samples_per_clip}`"
            if protocol.given_frames
            else f"{protocol.name}: samples are given no frame, these were given {given}"
        )
    if (num_real, num_fake) != (protocol.num_real, protocol.num_fake):
        raise InputError(
            f"{protocol.name}: takes {protocol.num_real} real clips of split {protocol.split} and "
            f"{protocol.num_fake} samples, found {num_real} and {num_fake}; sample with "
            f"`--num {protocol.num_fake}`, or leave --generation out"
        )


def require_same_clips(sampled_with: dict, data_hash: str, split: str) -> None:
    """Reject samples that continue clips other than the real clips of the evaluation.

    Args:
        sampled_with: plan of the clip store of samples.
        data_hash, split: content hash of the real clip store, and split of the real clips.

    Raises:
        InputError: the samples continue other clips; the message names both stores and splits.
    """
    found = (sampled_with.get("given_data"), sampled_with.get("given_split"))
    if found != (data_hash, split):
        raise InputError(
            f"the samples continue split {found[1]} of the store {str(found[0])[:12]}, but would "
            f"be scored against split {split} of {data_hash[:12]}; sample with --given and the "
            "store and split of this evaluation"
        )


def simulation(scores: dict[str, Any]) -> str | None:
    """Return a sentence stating that the videos are simulated, or None if they are not."""
    label = at(scores, "made_by", "data", "simulated")
    if not isinstance(label, str):
        return None
    name = at(scores, "generation", "protocol", "name")
    under = f"; {name} says how clips and samples were taken, not which videos" if name else ""
    return (
        f"The videos are simulated ({label}): no score is comparable with a published one{under}."
    )


def at(value: Any, *keys: str) -> Any:
    """Return the value under nested keys in JSON, or None if any of the keys is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
