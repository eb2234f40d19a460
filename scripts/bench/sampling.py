"""Times sampling, and compares it with an eager loop, Hugging Face and a lower bound.

It measures the CPU time of whole clips on one thread, as medians over interleaved rounds. Example:
`OMP_NUM_THREADS=1 python scripts/bench/sampling.py --rounds 3`
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from video_vq.models.prior import Prior
from video_vq.models.prior_config import PriorConfig, TransformerConfig
from video_vq.models.sampling import sample_tokens
from video_vq.nn.attention import SelfAttention, SwiGLU, TransformerBlock
from video_vq.nn.blocks import num_parameters
from video_vq.nn.rotary import rotate

CODEBOOK_SIZE = 1024
SIZES = TransformerConfig(width=576, depth=8, heads=9)
GRIDS = {256: (1, 16, 16), 1024: (4, 16, 16)}


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time that `work` takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


@torch.inference_mode()
def eager_loop(prior: Prior, batch: int) -> Tensor:
    """Sample tokens in a plain loop over the prior's modules, with a cache and fused attention."""
    num_tokens = prior.config.num_tokens
    shape = (batch, SIZES.heads, num_tokens, SIZES.head_dim)
    caches = [(torch.empty(shape), torch.empty(shape)) for _ in prior.blocks]
    rotary, positions = prior.rotary, prior.positions
    tokens = torch.empty(batch, num_tokens, dtype=torch.long)
    x = prior.condition(batch, None, None, None).start
    for i in range(num_tokens):
        x = x + positions[i]
        for block, (keys, values) in zip(prior.blocks, caches, strict=True):
            assert isinstance(block, TransformerBlock)
            attention, mlp = block.attention, block.mlp
            assert isinstance(attention, SelfAttention)
            assert isinstance(mlp, SwiGLU)
            mixed = attention.query_key_value(block.attention_norm(x))
            query, key, value = rearrange(
                mixed, "b (three heads c) -> three b heads c", three=3, heads=SIZES.heads
            )
            sharpness = attention.gain[:, None] * SIZES.head_dim**0.5
            query = rotate(
                F.normalize(query, dim=-1) * sharpness, rotary.query_cos[i], rotary.query_sin[i]
            )
            keys[:, :, i] = rotate(F.normalize(key, dim=-1), rotary.key_cos[i], rotary.key_sin[i])
            values[:, :, i] = value
            read = F.scaled_dot_product_attention(
                query[:, :, None], keys[:, :, : i + 1], values[:, :, : i + 1], scale=1.0
            )
            x = x + attention.output(read.flatten(1))
            gate, up = mlp.gate_up(block.mlp_norm(x)).chunk(2, dim=-1)
            x = x + mlp.down(F.silu(gate) * up)
        probabilities = prior.head(prior.final_norm(x)).softmax(-1)
        tokens[:, i] = torch.multinomial(probabilities, 1)[:, 0]
        x = prior.token_embedding(tokens[:, i])
    return tokens


def hugging_face(num_tokens: int, batch: int) -> Callable[[], object] | None:
    """Return a function that samples from a Llama of equal size, or None without transformers."""
    if importlib.util.find_spec("transformers") is None:
        return None
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    config = transformers.LlamaConfig(
        vocab_size=CODEBOOK_SIZE,
        hidden_size=SIZES.width,
        intermediate_size=SIZES.hidden,
        num_hidden_layers=SIZES.depth,
        num_attention_heads=SIZES.heads,
        max_position_embeddings=num_tokens + 1,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    start = torch.zeros(batch, 1, dtype=torch.long)

    @torch.inference_mode()
    def generate() -> object:
        return model.generate(
            start,
            attention_mask=torch.ones_like(start),
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
            do_sample=True,
            top_k=0,
        )

    return generate


def floor_seconds(prior: Prior, batch: int) -> float:
    """Return a lower bound on the CPU seconds for sampling a batch, and print the rates behind it.

    The bound is the time for reading weights and cache or for the matrix products, whichever is
    longer, at rates that are measured with the sum of a large array and with a square product.
    """
    array = torch.ones(1 << 26)
    read = statistics.median(cpu_seconds(array.sum) for _ in range(5))
    square = torch.ones(1024, 1024)
    product = statistics.median(cpu_seconds(lambda: square @ square) for _ in range(5))
    bytes_per_second, flops = 4 * array.numel() / read, 2 * 1024**3 / product
    steps = prior.config.num_tokens
    weights = num_parameters(prior.blocks) + prior.head.weight.numel()
    cache = SIZES.depth * 2 * batch * SIZES.width * steps / 2
    by_reading = 4 * (weights + cache) / bytes_per_second
    by_products = 2 * batch * weights / flops
    print(
        f"  read {bytes_per_second / 1e9:.1f} GB/s, product {flops / 1e9:.0f} GFLOP/s: "
        f"floor {1e3 * by_reading:.1f} ms a step by reading, {1e3 * by_products:.1f} by products"
    )
    return steps * max(by_reading, by_products)


def compare(num_tokens: int, batch: int, rounds: int, eager: bool) -> None:
    """Print the speeds for one number of tokens and one batch size."""
    torch.manual_seed(0)
    config = PriorConfig(CODEBOOK_SIZE, GRIDS[num_tokens], transformer=SIZES)
    prior = Prior(config).eval()
    torch.nn.init.normal_(prior.head.weight, std=0.05)
    print(f"{num_tokens} tokens, batch {batch}")
    contenders: dict[str, Callable[[], object]] = {
        "sample_tokens": lambda: sample_tokens(prior, range(batch), batch_size=batch),
    }
    if eager:
        contenders["eager loop"] = lambda: eager_loop(prior, batch)
    generate = hugging_face(num_tokens, batch)
    if generate is not None:
        contenders["Hugging Face"] = generate
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            seconds[name].append(cpu_seconds(work))
    floor = floor_seconds(prior, batch)
    ours = statistics.median(seconds["sample_tokens"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(
            f"  {name:14s} {batch / median:8.3f} clips/s"
            f" {batch * num_tokens / median:8.1f} tokens/s {1e3 * median / num_tokens:7.1f} ms/step"
            f" {100 * floor / median:4.0f} % of the floor's speed"
            f" {median / ours:5.2f} x the time of sample_tokens"
            f" ({min(times):.1f} to {max(times):.1f} s)",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024], choices=GRIDS)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-eager", action="store_true", help="leave the eager loop out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prior = Prior(PriorConfig(CODEBOOK_SIZE, GRIDS[256], transformer=SIZES))
    print(f"{num_parameters(prior) / 1e6:.1f}M parameters, {SIZES}")
    if importlib.util.find_spec("transformers") is None:
        print("Hugging Face is left out: transformers is not installed")
    for num_tokens in arguments.tokens:
        for batch in arguments.batches:
            compare(num_tokens, batch, arguments.rounds, not arguments.no_eager)


if __name__ == "__main__":
    main()
