"""Gradient estimators: forward the code itself, backward a gradient of choice; needs only torch.

Notation of the rotation trick (Fifty et al., ICLR 2025, section 4.2): e the latent, q its code,
ê = e/|e|, q̂ = q/|q|, λ = |q|/|e|, g = dL/dq̃, R the rotation of the plane (e, q) that takes ê to q̂.

    forward   q̃ = λ R e = q                                     (equation 4)
    backward  dL/de = γ Rᵀ g = γ [ g − 2 s (s·g)/(s·s) + 2 ê (q̂·g) ],   s = ê + q̂

R and λ are constants. γ = λ is the paper's; the estimators differ in γ and in R. Degenerate rows
have these gradients: q = 0 with γ = λ gives 0; e = 0, or q = 0 with another γ, has no plane to
rotate in, so R = I, and λ = 1 at e = 0; at e = −q the plane is not unique and the s-term is left
out, which keeps |dL/de| = γ|g| and cos(e, dL/de) = cos(q, g).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, "n d"]
Row = Float[Tensor, "n 1"]

TINY_NORM = 1e-30  # below this a float32 vector has no direction
NEAR_OPPOSITE = 0.01  # 1 + cos(e, q) under which five dot products lose too many digits


def straight_through(e: Rows, q: Rows) -> Rows:
    """Copy the gradient: dL/de = g (Bengio et al. 2013; VQ-VAE)."""
    return _Scale.apply(e, q, None)


def scaled(e: Rows, q: Rows) -> Rows:
    """Scale without rotating: dL/de = λ g, a control for the rotation."""
    return _Scale.apply(e, q, norm_ratio(e, q))


def rotation(e: Rows, q: Rows) -> Rows:
    """The rotation trick: dL/de = λ Rᵀ g (equation 4 of the paper)."""
    return _Rotate.apply(e, q, norm_ratio(e, q))


def rotation_unit(e: Rows, q: Rows) -> Rows:
    """Rotate without rescaling: dL/de = Rᵀ g (the paper's ablation, γ = 1)."""
    return _Rotate.apply(e, q, torch.ones_like(norm_ratio(e, q)))


def rotation_clipped(e: Rows, q: Rows, limit: float = 2.0) -> Rows:
    """Rotate with a bounded scale: dL/de = min(λ, limit) Rᵀ g."""
    return _Rotate.apply(e, q, norm_ratio(e, q).clamp(max=limit))


def rotation_dynamic(e: Rows, q: Rows, weight: Row) -> Rows:
    """Rotate, weighted by how well the latent fits its code: dL/de = w Rᵀ g, w in (0, 1]."""
    return _Rotate.apply(e, q, weight)


def reflection(e: Rows, q: Rows) -> Rows:
    """Reflect e onto q: dL/de = λ H g, H = I − 2 d dᵀ/|d|², d = ê − q̂ (the paper's ablation)."""
    return _Reflect.apply(e, q, norm_ratio(e, q))


@torch.no_grad()
def norm_ratio(e: Rows, q: Rows) -> Row:
    """λ = |q|/|e| per row in at least float32, 1 where e = 0 and never beyond 1e30."""
    e_norm, q_norm = _norm(e), _norm(q)
    return torch.where(e_norm < TINY_NORM, 1.0, q_norm / e_norm.clamp(min=TINY_NORM)).clamp(
        max=1e30
    )


@torch.no_grad()
def fit_weight(distance_squared: Float[Tensor, "n"], nearest_squared: Float[Tensor, "n"]) -> Row:
    """StableVQ's weight: smallest distance to the code in the batch over this row's, in (0, 1]."""
    ratio = nearest_squared.clamp(min=1e-12) / distance_squared.clamp(min=1e-12)
    return ratio.clamp(max=1.0).unsqueeze(1)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_wide(x), dim=1, keepdim=True)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(1, keepdim=True)


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, e: Tensor, q: Tensor, gamma: Tensor | None) -> Tensor:
        ctx.gamma, ctx.dtype = gamma, e.dtype
        return q.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (grad,) = grads
        scaled_grad = grad if ctx.gamma is None else _wide(grad) * ctx.gamma
        return scaled_grad.to(ctx.dtype), None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, e: Tensor, q: Tensor, gamma: Tensor) -> Tensor:
        ctx.save_for_backward(e, q, gamma)
        return q.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        e, q, gamma = (_wide(x) for x in ctx.saved_tensors)
        g = _wide(grads[0])
        e_norm, q_norm = _norm(e), _norm(q)
        a = 1 / e_norm.clamp(min=TINY_NORM)
        b = 1 / q_norm.clamp(min=TINY_NORM)
        no_plane = (e_norm < TINY_NORM) | (q_norm < TINY_NORM)
        one_plus_cos = 1 + a * b * _dot(e, q)
        q_g = b * _dot(q, g)
        # Rᵀg = g + alpha e + beta q, the s-form of the docstring with its dots multiplied out.
        t = (a * _dot(e, g) + q_g) / one_plus_cos.clamp(min=NEAR_OPPOSITE)
        alpha = (a * (2 * q_g - t)).masked_fill(no_plane, 0)
        beta = (b * -t).masked_fill(no_plane, 0)
        rotated = torch.addcmul(g, alpha, e).addcmul_(beta, q)
        rows = ((one_plus_cos < NEAR_OPPOSITE) & ~no_plane).squeeze(1).nonzero().squeeze(1)
        if len(rows):
            rotated[rows] = _rotate_back_near_opposite(e[rows], q[rows], g[rows])
        return (rotated * gamma).to(ctx.saved_tensors[0].dtype), None, None


def _rotate_back_near_opposite(e: Tensor, q: Tensor, g: Tensor) -> Tensor:
    e_hat, q_hat = e / _norm(e), q / _norm(q)
    s = e_hat + q_hat
    s_s = _dot(s, s)
    unique = s_s > 16 * torch.finfo(s.dtype).eps ** 2
    s_term = torch.where(unique, s * (_dot(s, g) / s_s.clamp(min=TINY_NORM)), 0)
    return g - 2 * s_term + 2 * e_hat * _dot(q_hat, g)


class _Reflect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, e: Tensor, q: Tensor, gamma: Tensor) -> Tensor:
        ctx.save_for_backward(e, q, gamma)
        return q.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        e, q, gamma = (_wide(x) for x in ctx.saved_tensors)
        g = _wide(grads[0])
        d = e / _norm(e).clamp(min=TINY_NORM) - q / _norm(q).clamp(min=TINY_NORM)
        d_d = _dot(d, d)
        differ = d_d > 16 * torch.finfo(d.dtype).eps ** 2
        reflected = g - torch.where(differ, 2 * d * (_dot(d, g) / d_d.clamp(min=TINY_NORM)), 0)
        return (reflected * gamma).to(ctx.saved_tensors[0].dtype), None, None
