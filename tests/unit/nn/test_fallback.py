"""Tests that a failing compiler costs only speed, and that unverified features stay off."""

import json

import pytest
import torch

from video_vq.nn import cards
from video_vq.nn.cards import is_verified, laid_out
from video_vq.nn.fallback import WithFallback
from video_vq.quantizers import fused, gradient, lookup
from video_vq.training.compiled import not_recompiled

GPU = torch.device("cuda")


def failing_compiler(graph, inputs):
    raise RuntimeError("\nptxas: unknown target\nmore of it")


@pytest.fixture
def verified_everywhere(monkeypatch):
    """Treat every device, including the CPU, as one on which all features were verified."""
    for module in (cards, fused, lookup):
        monkeypatch.setattr(module, "is_verified", lambda feature, device: True)
    caches = (fused.compiled, lookup._kernel_or_tiles)
    for function in caches:
        function.cache_clear()
    yield
    for function in caches:
        function.cache_clear()


def test_a_compiler_that_raises_costs_one_warning_and_no_result():
    x = torch.randn(5, generator=torch.Generator().manual_seed(0))
    broken = torch.compile(torch.exp, backend=failing_compiler)
    work = WithFallback("compiling the exponential", broken, torch.exp)
    with pytest.warns(RuntimeWarning, match="compiling the exponential failed .*ptxas") as caught:
        assert torch.equal(work(x), x.exp())
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert torch.equal(work(x), x.exp())  # a second warning would be an error


def test_too_little_memory_is_no_failure_of_a_compiler():
    def greedy():
        raise torch.OutOfMemoryError("17 GB")

    with pytest.raises(torch.OutOfMemoryError):
        WithFallback("this", greedy, lambda: None)()


def test_the_rotation_is_compiled_also_in_a_step_that_compiles_nothing_else(
    verified_everywhere, monkeypatch
):
    calls, compile_with = [], torch.compile

    def keep(graph, inputs):
        calls.append(graph)
        return graph.forward

    def compile_by_keep(function, dynamic):
        return compile_with(function, dynamic=dynamic, backend=keep)

    monkeypatch.setattr(torch, "compile", compile_by_keep)
    monkeypatch.setattr(fused.importlib.util, "find_spec", lambda name: name)  # Triton
    e, q, g = torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(1))
    with not_recompiled(True):
        found = fused.rotate_on_gpu(e, q, g, None, gradient.MAX_RATIO)
    assert len(calls) == 1
    torch.testing.assert_close(found, gradient.rotate_back(e, q, g))


def test_a_rotation_that_cannot_be_compiled_has_the_plain_gradient(
    verified_everywhere, monkeypatch
):
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: failing_compiler)
    e, q, g = torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(1))
    expected = gradient.rotate_back(e, q, g)
    with pytest.warns(RuntimeWarning, match="the rotation's backward failed"):
        found = fused.rotate_on_gpu(e, q, g, None, gradient.MAX_RATIO)
    torch.testing.assert_close(found, expected)


def test_a_kernel_that_cannot_be_compiled_leaves_the_same_codes(verified_everywhere):
    """The tests have no GPU: the kernel fails on the CPU, as it would with a failing compiler."""
    pytest.importorskip("triton")
    x, codes = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(2))
    expected = lookup.nearest_codes(x, codes, "torch")
    with pytest.warns(RuntimeWarning, match="the Triton lookup failed"):
        assert torch.equal(lookup.nearest_codes(x, codes), expected)
    assert torch.equal(lookup.nearest_codes(x, codes), expected)


def test_only_a_card_of_the_record_switches_a_feature_on(monkeypatch, tmp_path):
    path = tmp_path / "cards.json"
    path.write_text(json.dumps({"cards": {"Card A": {"features": ["triton_lookup"]}}}))
    monkeypatch.setattr(cards, "RECORD", path)
    cards.verified_features.cache_clear()
    names = {0: "Card A", 1: "Card B"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index or 0])
    assert is_verified("triton_lookup", GPU)
    assert not is_verified("sampling_graphs", GPU)
    assert not is_verified("triton_lookup", torch.device("cuda", 1))
    assert not is_verified("triton_lookup", torch.device("cpu"))
    cards.verified_features.cache_clear()


def test_the_shipped_record_is_read():
    assert cards.verified_features("a card that nobody has") == frozenset()


def test_a_verified_layout_is_taken_and_changes_no_value(verified_everywhere):
    x = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(laid_out(x), x)
    assert laid_out(x).is_contiguous(memory_format=torch.channels_last_3d)
