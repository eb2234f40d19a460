"""Tests of sampling steps as on a GPU and as graphs; a recorder replaces CUDA."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from video_vq.errors import InputError
from video_vq.models import cached_prior
from video_vq.models.cached_prior import CachedPrior
from video_vq.models.prior import Prior
from video_vq.models.prior_config import PriorConfig, SamplingSettings, TransformerConfig
from video_vq.models.sampling import TokenSampler, sample_batch
from video_vq.models.step_graphs import Step, StepGraphs

GRID, NUM_TOKENS, CODES = (3, 2, 4), 24, 37


@pytest.fixture(params=[(), (4, 3)], ids=["one code", "two codes"])
def prior(request, monkeypatch) -> Prior:
    """Return a small prior with actions; shorten SPAN, so that the cache has several spans."""
    monkeypatch.setattr(cached_prior, "SPAN", 7)
    torch.manual_seed(0)
    sizes = TransformerConfig(width=32, depth=2, heads=2)
    size = math.prod(request.param) if request.param else CODES
    prior = Prior(PriorConfig(size, GRID, 0, 2, sizes, levels=request.param))
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return prior.eval()


def recorded(work: Callable[[], Step]) -> Callable[[], Step]:
    """Record the tensor operations of a call; return a function that replays only these."""
    with torch.inference_mode(False), torch.no_grad():
        graph = make_fx(work)()
    return lambda: Step(*graph())


def decoder(prior: Prior, record: Callable | None = None, by_place: bool = True) -> CachedPrior:
    cached = CachedPrior(prior, 3)
    cached.by_place = by_place
    if record is not None:
        cached.graphs = StepGraphs(cached._step_at_place, record)
    return cached


@torch.no_grad()
def draw(cached: CachedPrior, prior: Prior, seed: int, num_given: int) -> Tensor:
    """Draw tokens of three clips whose actions and noise come from a seed."""
    generator = torch.Generator().manual_seed(seed)
    condition = prior.condition(3, None, torch.randn(3, GRID[0], 2, generator=generator), None)
    levels = len(prior.sub_codes)
    given = torch.zeros(3, num_given, levels, dtype=torch.int64) if num_given else None
    noise = torch.rand(3, NUM_TOKENS, levels, generator=generator, dtype=torch.float64)
    return sample_batch(cached, condition, given, noise, SamplingSettings(), None)


def test_a_step_whose_place_is_a_tensor_gives_the_logits_of_one_that_knows_it(prior):
    found, expected = decoder(prior), decoder(prior, by_place=False)
    tokens = torch.zeros(3, len(prior.sub_codes), dtype=torch.int64)
    condition = prior.condition(3, None, torch.ones(3, GRID[0], 2), None)
    with torch.no_grad():
        torch.testing.assert_close(found.begin(condition, None), expected.begin(condition, None))
        for _ in range(NUM_TOKENS - 1):
            torch.testing.assert_close(found.step(tokens), expected.step(tokens))


def test_recorded_steps_draw_the_same_tokens_clip_after_clip(prior):
    plain, graphs = decoder(prior), decoder(prior, recorded)
    drawn = []
    for seed, num_given in ((1, 0), (2, 0), (3, 5)):
        drawn.append(draw(plain, prior, seed, num_given))
        assert torch.equal(draw(graphs, prior, seed, num_given), drawn[-1])
    assert not torch.equal(drawn[0], drawn[1])
    assert graphs.graphs is not None
    assert graphs.graphs._recorded is not None
    assert sorted(graphs.graphs._recorded) == [7, 14, 21, 24]


def test_steps_that_cannot_be_recorded_cost_one_warning_and_no_sample(prior):
    def failing(work: Callable[[], Step]) -> Callable[[], Step]:
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = decoder(prior, failing)
    with pytest.warns(RuntimeWarning, match="not permitted when stream is capturing") as caught:
        assert torch.equal(draw(graphs, prior, 1, 0), draw(decoder(prior), prior, 1, 0))
    assert len(caught) == 1


def test_graphs_are_refused_where_there_is_no_gpu(prior):
    with pytest.raises(InputError, match="CUDA graphs need a prior on a GPU, this one is on cpu"):
        TokenSampler(prior, graphs=True)
    assert not TokenSampler(prior).graphs
