"""Tests that binary and residual quantizers on 2 and 4 processes agree with one process."""

import hashlib
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from video_vq.quantizers.build import build_quantizer
from video_vq.quantizers.codebook import merge
from video_vq.quantizers.quantizer_config import BinaryConfig, ResidualConfig

CHANNELS, BATCH, STEPS = 6, 32, 12
CONFIGS = {
    "binary": BinaryConfig(num_bits=5, spherical=False, temperature=2.0, entropy_channels=3),
    "residual": ResidualConfig(
        codebook_sizes=(8, 6), codebook_dim=4, groups=2, dropout=True, restart_threshold=0.3
    ),
}


def batch_of(step: int) -> torch.Tensor:
    return torch.randn(BATCH, CHANNELS, 4, generator=torch.Generator().manual_seed(step))


def gradients(quantizer: Any, output: Any, world: int) -> torch.Tensor:
    """Return the gradient of the input projection, averaged over the ranks as in DDP."""
    loss = output.quantized.square().mean() + torch.stack([*output.losses.values()]).sum()
    quantizer.zero_grad()
    loss.backward()
    found = quantizer.project_in.weight.grad.clone()
    if world > 1:
        dist.all_reduce(found)
    return found / world


def train(kind: str, rank: int = 0, world: int = 1) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Train on this rank's part of each global batch; return each step's digest, final tensors."""
    torch.manual_seed(0)
    quantizer: Any = build_quantizer(CHANNELS, CONFIGS[kind])
    digests, last = [], {}
    for step in range(STEPS):
        mine = batch_of(step).chunk(world)[rank]
        if not quantizer.codebook.is_initialized:
            quantizer.codebook.initialize((quantizer.latents(mine).detach(),), seed=7)
        output = quantizer(mine)
        last["gradient"] = gradients(quantizer, output, world)
        update = quantizer.codebook.update(merge([output.statistics]), seed=7)
        last |= {"counts": update.counts, "restarted": update.restarted}
        with torch.no_grad():  # scoring on only one rank does not wait for the others
            quantizer(mine) if rank == 0 else None
        digest = hashlib.sha256()
        for _, value in sorted({**quantizer.state_dict(), **last}.items()):
            digest.update(value.contiguous().numpy().tobytes())
        digests.append(digest.hexdigest())
    return digests, {**quantizer.state_dict(), **last}


def run_rank(kind: str, rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/s", rank=rank, world_size=world)
    try:
        digests, tensors = train(kind, rank, world)
    finally:
        dist.destroy_process_group()
    Path(folder, f"{rank}.txt").write_text("\n".join(digests))
    safetensors.torch.save_file(
        {name: value.contiguous() for name, value in tensors.items()},
        Path(folder, f"{rank}.safetensors"),
    )


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", CONFIGS)
def test_ranks_are_bit_equal_and_agree_with_one_process(kind, world, tmp_path):
    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=run_rank, args=(kind, rank, world, str(tmp_path)))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    digests = [(tmp_path / f"{rank}.txt").read_text() for rank in range(world)]
    assert set(digests) == {digests[0]}
    found = safetensors.torch.load_file(tmp_path / "0.safetensors")
    _, alone = train(kind)
    assert found.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
