"""Tests of the estimators against explicit matrices and peers, and of edge cases."""

import ast
import importlib.util
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from video_vq.quantizers import fused, gradient
from video_vq.quantizers.quantizer_config import Estimator


def pair(seed: int, n: int = 64, d: int = 16, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    e, q, g = (torch.randn(n, d, generator=generator, dtype=dtype) for _ in range(3))
    return e.requires_grad_(), q, g


def gradient_of(estimator, e, q, g, *more):
    output = estimator(e, q, *more)
    assert torch.equal(output, q)
    (result,) = torch.autograd.grad(output, e, g)
    return result


def rotation_matrix(e: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    e_hat, q_hat = e / e.norm(), q / q.norm()
    r = (e_hat + q_hat) / (e_hat + q_hat).norm()
    identity = torch.eye(len(e), dtype=e.dtype)
    return identity - 2 * torch.outer(r, r) + 2 * torch.outer(q_hat, e_hat)


def test_rotation_agrees_with_explicit_matrices():
    e, q, g = pair(0)
    found = gradient_of(gradient.rotation, e, q, g)
    for row in range(len(e)):
        e_row, q_row = e[row].detach(), q[row]
        matrix = rotation_matrix(e_row, q_row)
        scale = q_row.norm() / e_row.norm()
        torch.testing.assert_close(scale * matrix @ e_row, q_row)
        tolerance = 1e-12 / (1 + torch.cosine_similarity(e_row, q_row, dim=0)).item()
        assert (found[row] - scale * matrix.T @ g[row]).norm() <= tolerance * g[row].norm() * scale
        wrong = scale * matrix @ g[row]
        assert (found[row] - wrong).norm() > 1e-3 * g[row].norm() * scale


def test_rotation_agrees_with_vector_quantize_pytorch():
    e, q, g = pair(1)
    theirs = rotate_to(e, q)
    (expected,) = torch.autograd.grad(theirs, e, g)
    found = gradient_of(gradient.rotation, e, q, g)
    cosine = torch.cosine_similarity(e.detach(), q, dim=1)
    error = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert bool((error <= 1e-12 / (1 + cosine)).all())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 9),
    d=st.integers(2, 33),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e3, 1e6]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_rotation_keeps_the_angle_and_scales_the_norm(seed, n, d, scale, dtype):
    e, q, g = pair(seed, n, d, dtype)
    e = (e.detach() * scale).requires_grad_()
    found = gradient_of(gradient.rotation, e, q, g).double()
    wide_e, wide_q, wide_g = e.detach().double(), q.double(), g.double()
    tolerance = 1e-9 if dtype is torch.float64 else 1e-3
    before = torch.cosine_similarity(wide_q, wide_g, dim=1)
    after = torch.cosine_similarity(wide_e, found, dim=1)
    torch.testing.assert_close(after, before, atol=tolerance, rtol=0)
    scale_found = found.norm(dim=1) / wide_g.norm(dim=1)
    torch.testing.assert_close(
        scale_found, wide_q.norm(dim=1) / wide_e.norm(dim=1), rtol=tolerance, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("angle", [1e-1, 1e-2, 1e-3, 1e-4])
def test_rotation_is_right_near_opposite_vectors(dtype, angle):
    generator = torch.Generator().manual_seed(2)
    basis, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    e = basis[0]
    q = -math.cos(angle) * basis[0] + math.sin(angle) * basis[1]
    g = torch.randn(8, generator=generator, dtype=torch.float64)
    expected = rotation_matrix(e, q).T @ g
    narrow_e = e.to(dtype)[None].requires_grad_()
    found = gradient_of(gradient.rotation_unit, narrow_e, q.to(dtype)[None], g.to(dtype)[None])[0]
    # The plane itself is only known to eps/angle.
    assert (found.double() - expected).norm() / g.norm() < 8 * torch.finfo(dtype).eps / angle


def test_parallel_vectors_only_scale_the_gradient():
    e, _, g = pair(3)
    found = gradient_of(gradient.rotation, e, 3.0 * e.detach(), g)
    torch.testing.assert_close(found, 3.0 * g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "estimator",
    [
        gradient.straight_through,
        gradient.scaled,
        gradient.rotation,
        gradient.rotation_unit,
        gradient.rotation_clipped,
        gradient.rotation_blended,
        gradient.reflection,
    ],
)
def test_degenerate_vectors_give_finite_gradients(estimator, dtype):
    one = torch.tensor([1.0, 2.0, 3.0, 4.0])
    zero = torch.zeros(4)
    e = torch.stack([zero, one, one, zero, 1e-30 * one, 1e-3 * one, one]).to(dtype)
    q = torch.stack([one, zero, -one, zero, one, one, one]).to(dtype)
    found = gradient_of(estimator, e.requires_grad_(), q, torch.ones(7, 4, dtype=dtype))
    assert found.dtype is dtype
    assert bool(torch.isfinite(found).all())


def test_degenerate_vectors_have_the_documented_gradients():
    one = torch.tensor([[1.0, 2.0, 2.0]])
    zero = torch.zeros(1, 3)
    g = torch.tensor([[0.3, -0.2, 0.5]])
    at_zero = gradient_of(gradient.rotation, zero.clone().requires_grad_(), one, g)
    torch.testing.assert_close(at_zero, g)
    to_zero = gradient_of(gradient.rotation, one.clone().requires_grad_(), zero, g)
    torch.testing.assert_close(to_zero, torch.zeros(1, 3))
    opposite = gradient_of(gradient.rotation, one.clone().requires_grad_(), -one, g)
    unit = one / one.norm()
    torch.testing.assert_close(opposite, g - 2 * unit * (unit * g).sum())


def test_a_blended_rotation_weighs_both_gradients_by_the_angle():
    e, q, g = pair(11)
    rotated = gradient_of(gradient.rotation, e, q, g)
    angle = torch.rad2deg(torch.acos(torch.cosine_similarity(e.detach(), q, dim=1)))[:, None]
    for equal_angle in (5.0, 30.0, 200.0):
        a = 1 / (1 + (angle / equal_angle) ** 2)
        found = gradient_of(gradient.rotation_blended, e, q, g, equal_angle)
        torch.testing.assert_close(found, a * rotated + (1 - a) * g)
    one = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for degrees, share in ((0.0, 1.0), (20.0, 0.5), (40.0, 0.2), (180.0, 1 / 82)):
        radians = torch.deg2rad(torch.tensor([[degrees]], dtype=torch.float64))
        code = 3 * torch.cat([radians.cos(), radians.sin()], 1)
        found = gradient.rotation_share(one, code, 20.0)
        torch.testing.assert_close(found, torch.tensor([[share]], dtype=torch.float64))


def test_behind_a_loss_of_the_direction_alone_the_rotation_is_right_to_first_order():
    """As derived in `rotation_share`, its error is of order θ², that of the copy of order θ."""
    basis, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    q, side = 2 * basis[:1], basis[1]

    def gradient_at(point: torch.Tensor) -> torch.Tensor:
        leaf = point.clone().requires_grad_()
        turned = torch.atan2(leaf @ side, leaf @ basis[0])  # the angle from q: blind to the length
        (turned + turned**3).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    g = gradient_at(q)
    misses = []
    for angle in (0.02, 0.01):
        e = 2 * (math.cos(angle) * basis[:1] + math.sin(angle) * side)
        exact = gradient_at(e)
        rotated = gradient.rotate_back(e, q, g)
        misses.append([float((exact - found).norm() / g.norm()) for found in (g, rotated)])
    assert misses[0][0] == pytest.approx(0.02, rel=0.05)
    assert misses[0][0] / misses[1][0] == pytest.approx(2, rel=0.05)
    assert misses[0][1] / misses[1][1] == pytest.approx(4, rel=0.05)
    assert misses[0][1] < misses[0][0] / 10
    # It is right at any length of e, where the copy is off even at the angle 0.
    longer = gradient.rotate_back(3 * q, q, g)
    torch.testing.assert_close(longer, gradient_at(3 * q))


def test_reflection_agrees_with_a_householder_matrix():
    e, q, g = pair(4)
    found = gradient_of(gradient.reflection, e, q, g)
    for row in range(len(e)):
        e_row, q_row = e[row].detach(), q[row]
        d = e_row / e_row.norm() - q_row / q_row.norm()
        matrix = torch.eye(len(d), dtype=d.dtype) - 2 * torch.outer(d, d) / (d @ d)
        scale = q_row.norm() / e_row.norm()
        torch.testing.assert_close(scale * matrix @ e_row, q_row)
        torch.testing.assert_close(found[row], scale * matrix @ g[row])


def test_the_other_scales_are_what_their_names_say():
    e, q, g = pair(5)
    ratio = q.norm(dim=1, keepdim=True) / e.detach().norm(dim=1, keepdim=True)
    rotated = gradient_of(gradient.rotation_unit, e, q, g)
    torch.testing.assert_close(gradient_of(gradient.rotation, e, q, g), ratio * rotated)
    torch.testing.assert_close(
        gradient_of(gradient.rotation_clipped, e, q, g, 1.1), ratio.clamp(max=1.1) * rotated
    )
    torch.testing.assert_close(gradient_of(gradient.scaled, e, q, g), ratio * g)
    assert torch.equal(gradient_of(gradient.straight_through, e, q, g), g)
    weight = torch.linspace(0.1, 1.0, len(e), dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        gradient_of(gradient.rotation_dynamic, e, q, g, weight), weight * rotated
    )


def test_backward_is_float32_for_narrow_latents():
    e, q, g = pair(6, dtype=torch.float32)
    narrow = e.detach().bfloat16().requires_grad_()
    found = gradient_of(gradient.rotation, narrow, q.bfloat16(), g.bfloat16())
    wide = narrow.detach().double().requires_grad_()
    expected = gradient_of(gradient.rotation, wide, q.bfloat16().double(), g.bfloat16().double())
    # One rounding to bf16 at the end is all that may differ.
    error = (found.double() - expected).abs()
    assert bool((error <= 2**-8 * expected.abs() + 1e-6).all())


def degenerate(e: torch.Tensor, q: torch.Tensor, kinds: list[str]) -> None:
    for row, kind in enumerate(kinds):
        if kind == "parallel":
            q[row] = 2.5 * e[row]
        elif kind == "opposite":
            q[row] = -0.5 * e[row]
        elif kind == "zero e":
            e[row] = 0
        elif kind == "zero q":
            q[row] = 0
        elif kind == "tiny e":
            e[row] *= 1e-20


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    d=st.integers(2, 40),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    kinds=st.lists(
        st.sampled_from(["any", "parallel", "opposite", "zero e", "zero q", "tiny e"]),
        min_size=1,
        max_size=8,
    ),
)
def test_the_invariants_hold_for_every_dtype_and_degenerate_row(seed, d, dtype, kinds):
    e, q, g = pair(seed, len(kinds), d)
    e, q, g = e.detach().clone(), q.clone(), g.clone()
    degenerate(e, q, kinds)
    e, q, g = (value.to(dtype) for value in (e, q, g))
    if dtype in (torch.bfloat16, torch.float16):  # else their gradients overflow the dtype
        e[e.abs() < 1e-3] = 0
    found = gradient_of(gradient.rotation_unit, e.requires_grad_(), q, g)
    assert found.dtype is dtype
    wide_e, wide_q, wide_g, found = (value.detach().double() for value in (e, q, g, found))
    ratio = gradient.norm_ratio(e, q).double()
    assert bool(torch.isfinite(ratio).all())
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-3}.get(dtype, 3e-2)
    for row in range(len(kinds)):
        length = wide_g[row].norm()
        assert abs(found[row].norm() - length) <= tolerance * length
        if wide_e[row].norm() == 0 or wide_q[row].norm() == 0:
            assert (found[row] - wide_g[row]).norm() <= tolerance * length
            continue
        cosines = [
            torch.cosine_similarity(a, b, dim=0, eps=1e-60)
            for a, b in ((wide_q[row], wide_g[row]), (wide_e[row], found[row]))
        ]
        assert abs(cosines[0] - cosines[1]) <= tolerance
        if kinds[row] == "parallel":
            assert (found[row] - wide_g[row]).norm() <= tolerance * length
    scaled = gradient_of(gradient.rotation, e, q, g).double()
    usual = (ratio < 1e3).squeeze(1)
    difference = (scaled - ratio * found)[usual].norm(dim=1)
    allowed = tolerance * (ratio * wide_g.norm(dim=1, keepdim=True))[usual, 0]
    assert bool((difference <= allowed).all())


def test_blocks_of_rows_do_not_show(monkeypatch):
    e, q, g = pair(8, n=1000, d=12, dtype=torch.float32)
    weight = torch.rand(1000, 1)
    whole = [gradient.rotate_back(e, q, g), gradient.rotate_back(e, q, g, weight)]
    monkeypatch.setattr(gradient, "BLOCK_BYTES", 12 * 4 * 77)
    parts = [gradient.rotate_back(e, q, g), gradient.rotate_back(e, q, g, weight)]
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)


def test_rows_near_their_opposite_keep_their_own_weights():
    e, q, g = pair(10, n=40)
    with torch.no_grad():
        near = torch.arange(40) % 3 == 1
        q[near] = -2 * e[near] + 1e-3 * q[near]
    weight = torch.linspace(0.1, 1.0, 40, dtype=torch.float64)[:, None]
    found = gradient.rotate_back(e, q, g, weight)
    for row in range(40):
        expected = weight[row] * rotation_matrix(e[row].detach(), q[row]).T @ g[row]
        assert (found[row] - expected).norm() < 1e-8 * g[row].norm()
    limited = gradient.rotate_back(e, q, g, limit=1.5)
    ratio = gradient.norm_ratio(e, q).clamp(max=1.5)
    assert bool((ratio[near] == 1.5).all())
    torch.testing.assert_close(limited, ratio * found / weight, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("apart", "has_a_plane"), [(3.9, False), (4.1, True)])
def test_vectors_within_four_roundings_of_their_opposite_have_no_plane(dtype, apart, has_a_plane):
    side = apart * torch.finfo(dtype).eps
    e = torch.tensor([[1.0, 0.0]], dtype=dtype)
    q = torch.tensor([[-1.0, side]], dtype=dtype)
    g = torch.tensor([[0.0, 1.0]], dtype=dtype)
    found = gradient.rotate_back(e, q, g)
    torch.testing.assert_close(found, -g if has_a_plane else g, rtol=0, atol=1e-5)
    # The reflection has none where e is nearly q.
    found = gradient_of(gradient.reflection, e.requires_grad_(), -q, g)
    torch.testing.assert_close(found, -g if has_a_plane else g, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("length", "code_length", "ratio"),
    [
        (2.0, 6.0, 3.0),
        (0.0, 5.0, 1.0),
        (0.0, 0.0, 1.0),
        (4.0, 0.0, 0.0),
        (0.9e-30, 5.0, 1.0),
        (1.1e-30, 0.11, 1e29),
        (1e-10, 1e25, 1e30),
        (1e-20, 1e9, 1e29),
    ],
)
def test_the_ratio_of_norms_is_one_at_zero_and_bounded(length, code_length, ratio):
    e = torch.tensor([[0.6, 0.8]], dtype=torch.float64) * length
    q = torch.tensor([[0.0, 1.0]], dtype=torch.float64) * code_length
    expected = torch.tensor([[ratio]], dtype=torch.float64)
    torch.testing.assert_close(gradient.norm_ratio(e, q), expected)
    g = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(gradient_of(gradient.scaled, e.requires_grad_(), q, g), ratio * g)


def test_the_weight_of_a_fit_is_the_smallest_distance_over_the_rows_own():
    found = gradient.fit_weight(
        torch.tensor([4.0, 1.0, 0.0, 1e-13, 2.0]), torch.tensor([1.0, 1.0, 0.0, 1e-14, 3.0])
    )
    torch.testing.assert_close(found, torch.tensor([[0.25], [1.0], [1.0], [1.0], [1.0]]))
    torch.testing.assert_close(
        gradient.fit_weight(torch.tensor([4e-12]), torch.tensor([0.0])), torch.tensor([[0.25]])
    )


@pytest.mark.parametrize("angle", [2.0, 1e-1, 1e-2])
def test_the_branchless_form_for_a_gpu_agrees_with_the_blocks(angle):
    e, q, g = pair(9, n=200)
    side = q - e * (q * e).sum(1, keepdim=True) / (e * e).sum(1, keepdim=True)
    q = -math.cos(angle) * e / e.norm(dim=1, keepdim=True) + math.sin(angle) * side
    for weight in (None, torch.rand(200, 1, dtype=torch.float64)):
        expected = gradient.rotate_back(e, q, g, weight, 2.0)
        found = gradient.rotate_everywhere(e.detach(), q.detach(), g, weight, 2.0)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("has_triton", [True, False])
def test_without_a_compiler_a_gpu_gets_the_plain_form(monkeypatch, has_triton):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "found" if has_triton else None)
    by_kernel = torch.full((1, 2), 7.0)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: lambda *values: by_kernel)
    found: Any = fused.compiled.__wrapped__()
    if has_triton:
        assert found(*torch.ones(3, 1, 2), None, 2.0) is by_kernel
    else:
        assert found is gradient.rotate_everywhere


# In a process of its own: TorchDynamo cannot trace the shape checks of the tests.
COMPILED = """
import sys
import torch
from video_vq.quantizers.gradient import rotation

torch.manual_seed(0)
e, q, g = (torch.randn(200, 12) for _ in range(3))
e[0], e[1], e[2], q[3] = -q[0], 0, -1.0001 * q[2], 0

def gradient_of(loss):
    leaf = e.clone().requires_grad_()
    loss(leaf).backward()
    return leaf.grad

def loss(leaf):
    return (rotation(leaf, q) * g).sum()

compiled = torch.compile(loss, backend=sys.argv[1], fullgraph=True)
torch.testing.assert_close(gradient_of(compiled), gradient_of(loss))
"""


def agrees_when_compiled(backend: str) -> None:
    command = [sys.executable, "-c", COMPILED, backend]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert answer.returncode == 0, answer.stderr


def test_a_compiled_model_has_the_rotation_in_its_graph():
    agrees_when_compiled("aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_the_rotation_goes_through_the_compiler_of_a_cpu():
    agrees_when_compiled("inductor")


def test_the_file_of_estimators_needs_torch_alone_and_its_table_has_every_name():
    tree = ast.parse(Path(gradient.__file__).read_text())
    nodes = list(ast.walk(tree))
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    modules |= {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    assert modules == {"collections.abc", "typing", "torch"}
    others = {"diveq", "noise_substitution", "none"}  # a substitute, not the code
    others |= {"gumbel_softmax", "index_backpropagation"}  # of all codes
    assert gradient.ESTIMATORS.keys() == set(get_args(Estimator)) - others
