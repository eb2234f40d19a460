"""Test that the prior learns a source of known entropy rate to within two percent."""

import torch
from einops import rearrange
from torch import Tensor

from video_vq.models.prior import Prior, prior_loss
from video_vq.models.prior_config import PriorConfig, TransformerConfig

K = 8
GRID = (4, 4, 4)


def entropy_bits(probabilities: Tensor) -> Tensor:
    return -(probabilities * probabilities.log2()).sum(-1)


def draw(number: int, start: Tensor, change: Tensor, generator: torch.Generator) -> Tensor:
    """Return clips in which each cell is an independent Markov chain over time."""
    cells = number * GRID[1] * GRID[2]
    frames = [torch.multinomial(start.expand(cells, K), 1, generator=generator)[:, 0]]
    while len(frames) < GRID[0]:
        frames.append(torch.multinomial(change[frames[-1]], 1, generator=generator)[:, 0])
    return rearrange(torch.stack(frames), "t (b cells) -> b (t cells)", b=number)


def test_a_tiny_prior_comes_within_two_percent_of_the_entropy_of_a_markov_source():
    generator = torch.Generator().manual_seed(0)
    change = (2 * torch.randn(K, K, generator=generator, dtype=torch.float64)).softmax(-1)
    start = torch.linalg.matrix_power(change, 200)[0]  # the stationary distribution
    rate = (entropy_bits(start) + 3 * (start * entropy_bits(change)).sum()).item() / 4
    frequencies_alone = entropy_bits(start).item()
    assert frequencies_alone > 1.4 * rate  # one who does not look back fails by far

    torch.manual_seed(0)
    sizes = TransformerConfig(width=32, depth=2, heads=2, dropout=0.0)
    prior = Prior(PriorConfig(K, GRID, transformer=sizes))
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-2, betas=(0.9, 0.95))
    num_steps = 350
    for step in range(num_steps):
        warm_up, decay = (step + 1) / 20, max(0.02, 1 - step / num_steps)
        optimizer.param_groups[0]["lr"] = 1e-2 * min(warm_up, decay)
        tokens = draw(32, start, change, generator)
        optimizer.zero_grad()
        prior_loss(prior(tokens), tokens).nats.backward()
        optimizer.step()

    held_out = draw(1000, start, change, generator)  # 64,000 tokens: the mean is good to 0.4 %
    with torch.no_grad():
        bits = prior_loss(prior.eval()(held_out), held_out).bits.item()
    assert 0.99 * rate < bits < 1.02 * rate
