"""Tests of each step of the codebook's arithmetic against values computed by hand."""

import pytest
import torch

from video_vq.quantizers.codebook import Codebook, merge
from video_vq.quantizers.lookup import nearest_codes
from video_vq.quantizers.quantizer_config import QuantizerConfig


def book_of(size: int, dim: int, **changes) -> Codebook:
    torch.manual_seed(0)
    return Codebook(QuantizerConfig(codebook_size=size, codebook_dim=dim, **changes))


def update(book: Codebook, latents: torch.Tensor, indices: torch.Tensor, **more):
    return book.update(book.statistics(latents, indices), seed=0, **more)


def test_sums_keep_what_float32_would_lose():
    book = book_of(2, 1)
    latents = torch.ones(3000, 1)
    latents[0] = 2.0**24  # from here on float32 has no odd numbers
    found = book.statistics(latents, torch.zeros(3000, dtype=torch.int64))
    assert found.sums.tolist() == [[2.0**24 + 2999], [0]]
    assert found.counts.tolist() == [3000, 0]
    assert merge([found, found]).sums.tolist() == [[2 * (2.0**24 + 2999)], [0]]


def test_many_latents_and_codes_are_worked_on_in_pieces_that_do_not_show():
    size, number = 2500, 5000
    book = book_of(size, 3, restart_threshold=0.0, decay=0.75, decay_warmup=False)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(number, 3, generator=generator)
    indices = torch.randint(size, (number,), generator=generator)
    one_hot = torch.nn.functional.one_hot(indices, size).double()
    expected = one_hot.T @ latents.double()
    statistics = book.statistics(latents, indices)
    torch.testing.assert_close(statistics.sums, expected)
    assert torch.equal(statistics.counts, one_hot.sum(0).long())
    first = book.codes.clone()
    book.update(statistics, seed=0)
    torch.testing.assert_close(book.average_sum, (0.25 * expected).float())
    heard = statistics.counts > 0
    assert 0 < int((~heard).sum()) < size
    means = (expected / one_hot.sum(0)[:, None]).float()
    torch.testing.assert_close(book.codes[heard], means[heard])
    assert torch.equal(book.codes[~heard], first[~heard])


@pytest.mark.parametrize("step", [0, 1, 5, 80, 890, 892, 10_000])
@pytest.mark.parametrize("warmup", [True, False])
def test_the_decay_rises_to_its_end_value(step, warmup):
    plain = {} if warmup else {"decay_warmup": False}  # it warms up unless told not to
    book = book_of(2, 1, restart_threshold=0.0, decay=0.99, **plain)
    book.num_updates.fill_(step)
    book.average_count.fill_(1.0)
    book.average_sum.fill_(-3.0)
    update(book, torch.tensor([[5.0], [7.0], [9.0]]), torch.tensor([0, 0, 1]))
    decay = min(0.99, (1 + step) / (10 + step)) if warmup else 0.99
    expected = torch.tensor([2.0, 1.0]) * (1 - decay) + decay
    torch.testing.assert_close(book.average_count, expected)
    sums = torch.tensor([[12.0], [9.0]]) * (1 - decay) - 3 * decay
    torch.testing.assert_close(book.average_sum, sums)
    torch.testing.assert_close(book.codes, sums / expected[:, None])
    assert int(book.num_updates) == step + 1


@pytest.mark.parametrize(("count", "follows"), [(0.0, False), (8e-7, False), (1.2e-6, True)])
def test_a_code_follows_its_average_once_it_was_heard(count, follows):
    book = book_of(2, 2, restart_threshold=0.0, decay_warmup=False)
    before = book.codes[1].clone()
    book.average_count[1] = count / 0.99
    book.average_sum[1] = torch.tensor([30.0, 40.0]) * count / 0.99
    update(book, torch.ones(5, 2), torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(book.codes[0], torch.ones(2))
    torch.testing.assert_close(book.codes[1], torch.tensor([30.0, 40.0]) if follows else before)


@pytest.mark.parametrize(
    ("below", "restarted"),
    [(2.0, []), (2.001, [1]), (0.0, []), (4.0, [1]), (4.001, [0, 1]), (None, [1])],
)
def test_a_code_dies_below_its_count_and_not_at_it(below, restarted):
    # Two codes with 4 and 2 latents each step: 3 on average, of which 0.7 is 2.1.
    book = book_of(2, 1, restart_threshold=0.7)
    book.average_count.copy_(torch.tensor([4.0, 2.0]))
    book.average_sum.copy_(torch.tensor([[4.0], [2.0]]))
    found = update(book, torch.ones(6, 1), torch.tensor([0, 0, 0, 0, 1, 1]), restart_below=below)
    assert found.restarted.tolist() == restarted
    assert found.counts.tolist() == [4, 2]
    counts = [3.0 if code in restarted else count for code, count in enumerate((4.0, 2.0))]
    assert book.average_count.tolist() == counts


def test_no_code_of_an_even_codebook_dies_at_the_fraction_that_the_config_names():
    book = book_of(4, 1, restart_threshold=0.5, decay_warmup=False)
    book.average_count.copy_(torch.tensor([2.0, 2.0, 3.0, 1.0]))
    indices = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])  # mean 2, of which a half is 1
    assert update(book, torch.ones(8, 1), indices).restarted.tolist() == []


def test_every_update_draws_anew_and_the_seed_decides():
    latents = torch.arange(1000.0)[:, None]
    indices = torch.zeros(1000, dtype=torch.int64)

    def restarted(seed: int, updates: int) -> list[list[float]]:
        book = book_of(8, 1)
        found = []
        for _ in range(updates):
            book.update(book.statistics(latents, indices), seed, restart_below=1e9)
            found.append(book.codes[:, 0].tolist())
        return found

    first, second = restarted(0, 2)
    assert len(set(first)) == 8
    assert len(set(first) & set(second)) < 3
    assert restarted(0, 1) == [first]
    assert len(set(restarted(1, 1)[0]) & set(first)) < 3


def test_latents_are_drawn_once_each_as_long_as_there_are_enough():
    latents = torch.arange(16.0)[:, None]
    book = book_of(16, 1)
    book.initialize((latents,), seed=0)
    assert sorted(book.codes[:, 0].tolist()) == list(range(16))
    assert book.codes[:, 0].tolist() != list(range(16))
    book.initialize((latents[:15],), seed=0)
    assert set(book.codes[:, 0].tolist()) <= set(range(15))
    assert book.average_count.tolist() == [1.0] * 16
    assert torch.equal(book.average_sum, book.codes)


@pytest.mark.parametrize("lengths", [(40, 1, 23), (0, 64), (64, 0), (0, 0, 63, 0, 1)])
def test_uneven_micro_batches_draw_as_one_batch(lengths):
    latents = torch.arange(64.0)[:, None]
    whole, parts = book_of(16, 1), book_of(16, 1)
    whole.initialize((latents,), seed=0)
    parts.initialize(latents.split(lengths), seed=0)
    assert torch.equal(parts.codes, whole.codes)


def test_without_latents_first_codes_wait():
    book = book_of(4, 2)
    before = book.codes.clone()
    book.initialize((torch.zeros(0, 2), torch.zeros(0, 2)), seed=0)
    assert not book.is_initialized
    assert torch.equal(book.codes, before)
    found = update(book, torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), restart_below=1.0)
    assert found.restarted.tolist() == []
    assert torch.equal(book.codes, before)


def test_kmeans_moves_each_code_to_the_mean_of_its_latents():
    book = book_of(3, 1)
    book.codes.copy_(torch.tensor([[0.0], [10.0], [1000.0]]))
    latents = torch.tensor([[1.0], [2.0], [3.0], [4.5], [12.0]])
    book.refine(latents, 0)
    assert book.codes[:, 0].tolist() == [0.0, 10.0, 1000.0]
    book.refine(latents, 1)
    assert book.codes[:, 0].tolist() == [2.625, 12.0, 1000.0]  # the last one hears nothing
    assert book.average_count.tolist() == [4.0, 1.0, 0.0]
    assert book.average_sum[:, 0].tolist() == [10.5, 12.0, 0.0]
    book.codes.copy_(torch.tensor([[0.0], [4.0], [1000.0]]))
    book.refine(latents, 2)  # 1 2 | 3 4.5 12, then 1 2 3 | 4.5 12
    assert book.codes[:, 0].tolist() == [2.0, 8.25, 1000.0]


def test_the_center_is_the_averaged_mean_of_all_latents():
    book = book_of(4, 2, restart_threshold=0.0, decay=0.5, decay_warmup=False)
    assert book.center().tolist() == [[0.0, 0.0]]
    latents = torch.tensor([[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]])
    update(book, latents, torch.tensor([0, 1, 1]))
    torch.testing.assert_close(book.center(), torch.tensor([[3.0, 1.0]]))
    update(book, torch.tensor([[9.0, 9.0]]), torch.tensor([3]))
    weights = 0.25 * 3 + 0.5 * 1
    expected = torch.tensor([[0.25 * 9 + 0.5 * 9, 0.25 * 3 + 0.5 * 9]]) / weights
    torch.testing.assert_close(book.center(), expected)


def test_a_frozen_codebook_only_counts():
    book = book_of(4, 2, learning="frozen", init="uniform")
    assert bool(book.is_initialized)
    before = {name: value.clone() for name, value in book.state_dict().items()}
    latents = torch.randn(50, 2)
    indices = nearest_codes(latents, book.codes)
    found = update(book, latents, indices)
    assert torch.equal(found.counts, torch.bincount(indices, minlength=4))
    assert found.restarted.tolist() == []
    before["num_updates"] += 1
    for name, value in book.state_dict().items():
        assert torch.equal(value, before[name]), name
