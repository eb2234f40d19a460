"""Gradient estimators, which return the code and define the latent's gradient, using only torch.

Notation of the rotation trick (Fifty et al., ICLR 2025, section 4.2): e is the latent, q its code,
ê = e/|e|, q̂ = q/|q|, λ = |q|/|e|, g = dL/dq̃, and R the rotation in the plane of e and q that maps
ê to q̂. All arguments are rows, n x d, and weights are n x 1. Results share the memory of q.

    forward   q̃ = λ R e = q                                     (equation 4)
    backward  dL/de = γ Rᵀ g = γ [ g − 2 s (s·g)/(s·s) + 2 ê (q̂·g) ],   s = ê + q̂

R and λ are treated as constants. The paper uses γ = λ; the estimators differ in γ and R. The
gradients of degenerate rows are as follows: if q = 0 and γ = λ, the gradient is 0; if e = 0, or
q = 0 with another γ, there is no rotation plane, so R = I, and λ = 1 if e = 0; if ê = −q̂, the plane
is not unique, and the s-term is omitted, which keeps |dL/de| = γ|g| and cos(e, dL/de) = cos(q, g).
λ never exceeds 1e30.

To rotate about a center c instead of the origin, and still return exactly q, use
`straight_through(rotation(e - c, q - c), q)`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TINY_NORM = 1e-30  # norm below which a float32 vector has no direction
MAX_RATIO = 1e30
NEAR_OPPOSITE = 0.01  # value of 1 + cos(e, q) below which `_combine` loses too many digits
BLOCK_BYTES = 1 << 20  # size of the row blocks in a CPU's backward pass, chosen to fit its cache


def straight_through(e: Tensor, q: Tensor) -> Tensor:
    """Copy the gradient: dL/de = g (Bengio et al. 2013; VQ-VAE)."""
    return _Scale.apply(e, q, None)


def scaled(e: Tensor, q: Tensor) -> Tensor:
    """Scale the gradient without rotation: dL/de = λ g, a control for the rotation."""
    return _Scale.apply(e, q, norm_ratio(e, q))


def rotation(e: Tensor, q: Tensor) -> Tensor:
    """Apply the rotation trick: dL/de = λ Rᵀ g (equation 4 of the paper)."""
    return _Rotate.apply(e, q, None, MAX_RATIO)


def rotation_unit(e: Tensor, q: Tensor) -> Tensor:
    """Rotate the gradient without scaling: dL/de = Rᵀ g (the paper's ablation, γ = 1)."""
    return _Rotate.apply(e, q, torch.ones(1, 1, device=e.device), MAX_RATIO)


def rotation_clipped(e: Tensor, q: Tensor, limit: float = 2.0) -> Tensor:
    """Rotate the gradient with a bounded scale: dL/de = min(λ, limit) Rᵀ g."""
    return _Rotate.apply(e, q, None, limit)


def rotation_dynamic(e: Tensor, q: Tensor, weight: Tensor) -> Tensor:
    """Rotate the gradient, weighted by how well latent and code fit: dL/de = w Rᵀ g, 0 < w ≤ 1."""
    return _Rotate.apply(e, q, weight, MAX_RATIO)


def rotation_blended(e: Tensor, q: Tensor, equal_angle: float = 30.0) -> Tensor:
    """Rotate less at larger angles: dL/de = a λ Rᵀ g + (1 − a) g with a = `rotation_share`.

    Args:
        e: the latents.
        q: codes of the latents.
        equal_angle: angle in degrees at which both gradients have equal weight.
    """
    a = rotation_share(e, q, equal_angle)
    return straight_through(a * rotation(e, q) + (1 - a) * straight_through(e, q), q)


def reflection(e: Tensor, q: Tensor) -> Tensor:
    """Reflect e onto q: dL/de = λ H g, H = I − 2 d dᵀ/|d|², d = ê − q̂ (the paper's ablation)."""
    return _Reflect.apply(e, q, norm_ratio(e, q))


def blocked(e: Tensor, q: Tensor) -> Tensor:
    """Block the gradient, dL/de = 0, since a second pass computes it (training/second_pass.py)."""
    return _Scale.apply(e, q, torch.zeros(1, 1, device=e.device))


# Estimators by their names in configs; any further arguments follow e and q.
ESTIMATORS: dict[str, Callable[..., Tensor]] = {
    "straight_through": straight_through,
    "scaled": scaled,
    "rotation": rotation,
    "rotation_unit": rotation_unit,
    "rotation_clipped": rotation_clipped,
    "rotation_dynamic": rotation_dynamic,
    "rotation_blended": rotation_blended,
    "reflection": reflection,
    "exact_gradient": blocked,
    "hessian": blocked,
}


@torch.no_grad()
def norm_ratio(e: Tensor, q: Tensor) -> Tensor:
    """Return λ = |q|/|e| per row, n x 1, in at least float32; λ = 1 if e = 0, and λ ≤ 1e30."""
    return _ratio(_norm(_wide(e)), _norm(_wide(q)))


@torch.no_grad()
def rotation_share(e: Tensor, q: Tensor, equal_angle: float) -> Tensor:
    """Return the weight of the rotated gradient, a(θ) = 1 / (1 + (θ/θ½)²), per row, n x 1.

    Derivation. The gradient at the latent itself is h = g + H (e − q) + …, where H is the Hessian
    of the loss at q. Straight-through omits H (e − q), an error of first order in the angle θ.
    λ Rᵀ g adds θ (t q̂ᵀ − q̂ tᵀ) g and g (λ − 1), where t ⟂ q̂ is the direction from q to e. If the
    loss does not depend on the length of q, these terms are all of H (e − q) except for the
    curvature along t: differentiating ∇L(c q) = ∇L(q) / c gives q·g = 0 and H q = −g, hence
    q̂·H t = −(t·g) / |q|. For such a loss, as with a decoder that normalizes, the rotation is
    parallel transport on the sphere, and its error vanishes with the angle; for other losses, the
    rotation itself adds an error.

    Assume that the two errors are independent, κ θ |g| for straight-through and κ' θ² |g|, of
    second order, for the rotation. The blend with the smallest mean squared error weights each
    gradient by the squared error of the other: a = (κθ)² / ((κθ)² + (κ'θ²)²), which is the form
    above with θ½ = κ / κ'.

    Measuring θ½. Over rows with the same angle, the best share is the regression coefficient of
    h − g on r − g, with r = λ Rᵀ g: a = Σ (h − g)·(r − g) / Σ |r − g|². For gradients of equal
    length, a is 1/2 exactly where r and g have the same cosine to h. So θ½ is the angle at which
    the rotated and the copied gradient have equal mean cosines to the exact gradient;
    quantizers/exactness.py measures these cosines.

    Args:
        e: the latents.
        q: codes of the latents.
        equal_angle: θ½ in degrees.
    """
    e, q = _wide(e), _wide(q)
    e_norm, q_norm = _norm(e).clamp(min=TINY_NORM), _norm(q).clamp(min=TINY_NORM)
    angle = torch.rad2deg(
        2 * torch.atan2(_norm(e / e_norm - q / q_norm), _norm(e / e_norm + q / q_norm))
    )
    return 1 / (1 + (angle / equal_angle).square())


@torch.no_grad()
def fit_weight(distance_squared: Tensor, nearest_squared: Tensor) -> Tensor:
    """Return StableVQ's weight, n x 1: `nearest_squared` / `distance_squared`, at most 1."""
    ratio = nearest_squared.clamp(min=1e-12) / distance_squared.clamp(min=1e-12)
    return ratio.clamp(max=1.0).unsqueeze(1)


@torch.no_grad()
def rotate_back(
    e: Tensor, q: Tensor, g: Tensor, weight: Tensor | None = None, limit: float = MAX_RATIO
) -> Tensor:
    """Return γ Rᵀ g per row in at least float32; γ = weight, or min(λ, limit) if weight is None."""
    if torch.compiler.is_compiling():
        return rotate_everywhere(_wide(e), _wide(q), _wide(g), weight, limit)
    if e.is_cuda:
        return rotate_on_gpu(_wide(e), _wide(q), _wide(g), weight, limit)
    wide = torch.promote_types(e.dtype, torch.float32)
    result = torch.empty(e.shape, dtype=wide, device=e.device)
    step = max(1, BLOCK_BYTES // (4 * e.shape[1]))
    for start in range(0, len(e), step):
        rows = slice(start, start + step)
        some = weight if weight is None or len(weight) == 1 else weight[rows]
        wide_e, wide_q, wide_g = _wide(e[rows]), _wide(q[rows]), _wide(g[rows])
        near = _combine(wide_e, wide_q, wide_g, some, limit, result[rows])
        if near.any():
            near = near.squeeze(1)
            chosen = some if some is None or len(some) == 1 else some[near]
            result[rows][near] = _s_form(wide_e[near], wide_q[near], wide_g[near], chosen, limit)
    return result


def _combine(
    e: Tensor, q: Tensor, g: Tensor, weight: Tensor | None, limit: float, out: Tensor | None
) -> Tensor:
    """Write γ Rᵀ g, expanded as γ g + α e + β q, to `out`; return the rows with ê near −q̂."""
    e_norm, q_norm = _norm(e), _norm(q)
    gamma = _ratio(e_norm, q_norm).clamp(max=limit) if weight is None else weight
    no_plane = (e_norm < TINY_NORM) | (q_norm < TINY_NORM)
    a = (1 / e_norm.clamp(min=TINY_NORM)).masked_fill(no_plane, 0)
    b = (1 / q_norm.clamp(min=TINY_NORM)).masked_fill(no_plane, 0)
    one_plus_cos = 1 + a * _dot(e, q) * b
    q_g = b * _dot(q, g)
    t = (a * _dot(e, g) + q_g) / one_plus_cos.clamp(min=NEAR_OPPOSITE)
    torch.mul(g, gamma, out=out).addcmul_(e, gamma * (2 * q_g - t) * a).addcmul_(q, gamma * -t * b)
    return one_plus_cos < NEAR_OPPOSITE


def _s_form(e: Tensor, q: Tensor, g: Tensor, weight: Tensor | None, limit: float) -> Tensor:
    """Return γ Rᵀ g computed from s, also accurate for ê near −q̂; neither e nor q may be 0."""
    e_norm, q_norm = _norm(e).clamp(min=TINY_NORM), _norm(q).clamp(min=TINY_NORM)
    gamma = _ratio(e_norm, q_norm).clamp(max=limit) if weight is None else weight
    e_hat, q_hat = e / e_norm, q / q_norm
    s = e_hat + q_hat
    s_s = _dot(s, s)
    unique = s_s > 16 * torch.finfo(s.dtype).eps ** 2
    s_term = torch.where(unique, s * (_dot(s, g) / s_s), 0)
    return gamma * (g - 2 * s_term + 2 * e_hat * _dot(q_hat, g))


def rotate_everywhere(
    e: Tensor, q: Tensor, g: Tensor, weight: Tensor | None, limit: float
) -> Tensor:
    """Return γ Rᵀ g without branches, so that a compiler can fuse the operations."""
    result = torch.empty_like(g)
    near = _combine(e, q, g, weight, limit, result)
    return torch.where(near, _s_form(e, q, g, weight, limit), result)


# quantizers/fused.py may replace this function with an equivalent compiled one.
rotate_on_gpu: Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor] = rotate_everywhere


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=1, keepdim=True)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(1, keepdim=True)


def _ratio(e_norm: Tensor, q_norm: Tensor) -> Tensor:
    ratio = q_norm / e_norm.clamp(min=TINY_NORM)
    return torch.where(e_norm < TINY_NORM, 1.0, ratio).clamp(max=MAX_RATIO)


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, e: Tensor, q: Tensor, gamma: Tensor | None) -> Tensor:
        ctx.gamma, ctx.dtype = gamma, e.dtype
        return q.view_as(q)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (grad,) = grads
        scaled_grad = grad if ctx.gamma is None else _wide(grad) * ctx.gamma
        return scaled_grad.to(ctx.dtype), None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, e: Tensor, q: Tensor, weight: Tensor | None, limit: float) -> Tensor:
        ctx.save_for_backward(e, q, weight)
        ctx.limit = limit
        return q.view_as(q)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None, None]:
        e, q, weight = ctx.saved_tensors
        return rotate_back(e, q, grads[0], weight, ctx.limit).to(e.dtype), None, None, None


class _Reflect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, e: Tensor, q: Tensor, gamma: Tensor) -> Tensor:
        ctx.save_for_backward(e, q, gamma)
        return q.view_as(q)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        e, q, gamma = (_wide(x) for x in ctx.saved_tensors)
        g = _wide(grads[0])
        d = e / _norm(e).clamp(min=TINY_NORM) - q / _norm(q).clamp(min=TINY_NORM)
        d_d = _dot(d, d)
        differ = d_d > 16 * torch.finfo(d.dtype).eps ** 2
        reflected = g - torch.where(differ, 2 * d * (_dot(d, g) / d_d), 0)
        return (reflected * gamma).to(ctx.saved_tensors[0].dtype), None, None
