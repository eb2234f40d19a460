"""Checks runs on several ranks: two on one card and, with several cards, one on each over NCCL."""

import json
import multiprocessing
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from day import Day, Figures, Results, check, relative, tokenizer_config
from noise_store import make_noise_store
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from video_vq.models.tokenizer import VideoTokenizer
from video_vq.quantizers.codebook import Codebook
from video_vq.quantizers.lookup import nearest_codes
from video_vq.quantizers.quantizer_config import QuantizerConfig
from video_vq.training.tokenizer import train_tokenizer

FORK = multiprocessing.get_context("fork")  # the parts do not initialize CUDA before they fork
UPDATES = 5


def on_ranks(number: int, work: Callable[[Day, Path], None], day: Day, out: Path) -> None:
    """Call `work` in `number` processes, each with the environment of one rank.

    Raises:
        RuntimeError: a process failed.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    out.mkdir(parents=True, exist_ok=True)
    ranks = []
    for rank in range(number):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        process = FORK.Process(target=one_rank, args=(environment, work, day, out))
        process.start()
        ranks.append(process)
    for process in ranks:
        process.join()
    if failed := [rank for rank, process in enumerate(ranks) if process.exitcode]:
        raise RuntimeError(f"ranks {failed} of {number} failed; see OUT/logs")


def one_rank(
    environment: dict[str, object], work: Callable[[Day, Path], None], day: Day, out: Path
) -> None:
    """Call `work` in this process, which becomes one rank."""
    os.environ |= {name: str(value) for name, value in environment.items()}
    torch.set_num_threads(1)
    work(day, out)
    if dist.is_initialized():
        dist.destroy_process_group()


def shared_card(day: Day) -> Figures:
    """Run two ranks on one card over gloo, and compare their results with those of one rank."""
    folder = day.out / "shared_card"
    for number in (1, 2):
        on_ranks(number, codes_and_gradient, day, folder / str(number))
    one = load_file(folder / "1" / "0.safetensors")
    first, second = (load_file(folder / "2" / f"{rank}.safetensors") for rank in range(2))
    shutil.rmtree(folder)
    return {
        "checks": {
            "codes that differ between the ranks": check(
                int((first["codes"] != second["codes"]).sum()), 0
            ),
            "codes of two ranks and of one": check(relative(first["codes"], one["codes"]), 1e-5),
            "gradient of two ranks and of one": check(relative(first["grad"], one["grad"]), 1e-3),
        }
    }


def codes_and_gradient(day: Day, out: Path) -> None:
    """Update a codebook and compute a gradient, on this rank's share of each batch; save both."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.backends.cudnn.allow_tf32 = False
    generator = torch.Generator().manual_seed(0)
    k, d, n = day.pick((512, 64, 8192), (16, 8, 64))
    codebook = Codebook(QuantizerConfig(codebook_size=k, codebook_dim=d)).to(day.device)

    def mine(batch: Tensor) -> Tensor:
        return batch.chunk(world)[rank].to(day.device)

    for step in range(UPDATES):
        latents = mine(torch.randn(n, d, generator=generator))
        if step == 0:
            codebook.initialize((latents,), seed=0)
        found = codebook.statistics(latents, nearest_codes(latents, codebook.vectors()))
        codebook.update(found, seed=0)
    torch.manual_seed(0)
    config = tokenizer_config(day, "bair_small").model
    tokenizer = VideoTokenizer(config).to(day.device)
    networks = torch.nn.Sequential(tokenizer.encoder, tokenizer.decoder)
    model = DistributedDataParallel(networks)
    size = day.pick(64, 16)
    video = mine(torch.rand(2, 3, 5, size, size, generator=generator) * 2 - 1)
    model(video).square().mean().backward()
    grads = [value.grad.flatten() for value in model.parameters() if value.grad is not None]
    tensors = {"codes": codebook.codes.cpu(), "grad": torch.cat(grads).cpu()}
    save_file(tensors, out / f"{rank}.safetensors")


def several_cards(day: Day) -> Figures:
    """Compare training on all cards (over NCCL; gloo in a rehearsal) with training on one."""
    # Another process counted them, because CUDA must not be initialized before this one forks.
    number = day.pick(Results(day.out / "results.json").machine.get("cards", 1), 2)
    if number < 2:
        return {"left_out": "NCCL: there is one card", "checks": {}}
    folder = day.out / "several_cards"
    shutil.rmtree(folder, ignore_errors=True)
    make_noise_store(folder / "clips", size=day.pick(64, 16), num_videos=16, num_frames=20)
    for count in (1, number):
        on_ranks(count, few_steps, day, folder / str(count))
    weights = [final_weights(folder / str(count)) for count in (1, number)]
    backend = json.loads((folder / str(number) / "backend.json").read_text())
    shutil.rmtree(folder)
    return {
        "ranks": number,
        "backend": backend,
        "checks": {
            "weights of all cards and of one": check(relative(weights[1], weights[0]), 1e-4)
        },
    }


def few_steps(day: Day, out: Path) -> None:
    """Train a few float32 steps as `video-vq train-tokenizer` does, and record the backend."""
    torch.backends.cudnn.allow_tf32 = False
    steps = day.pick(20, 2)
    config = tokenizer_config(
        *(day, "bair_small", f"optim.steps={steps}", f"optim.batch_size={day.pick(16, 2)}"),
        *("optim.warmup_steps=1", "optim.eps=1e-6", "optim.kind=adamw", "run.num_workers=0"),
        *(f"run.checkpoint_every={steps}", f"run.validate_every={steps}", "run.validation_clips=2"),
    )
    train_tokenizer(config, out.parent / "clips", out / "run")
    if os.environ["RANK"] == "0":
        backend = dist.get_backend() if dist.is_initialized() else "none"
        (out / "backend.json").write_text(json.dumps(backend))


def final_weights(out: Path) -> Tensor:
    """Return the trained weights in one vector."""
    newest = max((out / "run" / "state").glob("step_*"))
    tensors = load_file(newest / "model.safetensors")
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])
