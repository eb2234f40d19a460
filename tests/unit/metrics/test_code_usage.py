import math

import pytest
import torch

from video_vq.errors import InputError
from video_vq.metrics.code_usage import CodeUsage


def test_uniform_codes_have_a_perplexity_of_their_number():
    metric = CodeUsage(16)
    metric.update(torch.arange(8).reshape(2, 2, 2))
    use = metric.compute()
    assert use.code_usage == 0.5
    assert use.perplexity == pytest.approx(8, rel=1e-12)
    assert use.relative_perplexity == pytest.approx(0.5, rel=1e-12)
    assert use.num_tokens == 8


def test_perplexity_is_exp_of_the_entropy_of_uneven_codes():
    metric = CodeUsage(5)
    metric.update(torch.tensor([0, 0, 2, 4]))  # 1/2, 1/4, 1/4: entropy 1.5 ln 2
    assert metric.compute().perplexity == pytest.approx(math.pow(2, 1.5), rel=1e-12)


def test_one_code_alone_has_perplexity_one():
    metric = CodeUsage(1024)
    metric.update(torch.full((4, 4), 7))
    use = metric.compute()
    assert use.perplexity == pytest.approx(1, rel=1e-12)
    assert use.code_usage == 1 / 1024


def test_usage_is_over_all_batches_and_batch_usage_within_each():
    metric = CodeUsage(4)
    for batch in ([0, 0], [1, 1], [2, 3]):
        metric.update(torch.tensor(batch, dtype=torch.int32))
    use = metric.compute()
    assert use.code_usage == 1.0
    assert use.batch_code_usage == pytest.approx((0.25 + 0.25 + 0.5) / 3)


def test_counts_do_not_depend_on_the_batches():
    codes = torch.randint(0, 50, (64,), generator=torch.Generator().manual_seed(0))
    whole, pieces = CodeUsage(64), CodeUsage(64)
    whole.update(codes)
    for batch in codes.flip(0).split(10):
        pieces.update(batch)
    assert pieces.compute().perplexity == pytest.approx(whole.compute().perplexity, rel=1e-12)
    assert torch.equal(pieces.counts, whole.counts)


@pytest.mark.parametrize("codes", [[-1, 2], [0, 8]])
def test_codes_outside_the_codebook_are_refused(codes):
    with pytest.raises(InputError, match="codebook of 8"):
        CodeUsage(8).update(torch.tensor(codes))


def test_no_code_at_all_is_an_error():
    metric = CodeUsage(8)
    metric.update(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(InputError, match="at least one code"):
        metric.compute()


def test_merged_and_reloaded_counts_are_those_of_all_batches():
    whole, first, second = (CodeUsage((8, 4)) for _ in range(3))
    batches = [torch.tensor([[0, 1], [7, 3]]), torch.tensor([[2, 1]])]
    for batch, part in zip(batches, (first, second), strict=True):
        whole.update(batch)
        part.update(batch)
    first.merge(second)
    again = CodeUsage((8, 4))
    again.load(first.tensors())
    assert again.compute() == whole.compute()
    again.reset()
    assert int(again.counts.sum()) == int(again.num_batches) == 0
