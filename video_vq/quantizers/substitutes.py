"""Substitutes that training steps decode instead of the code: moved latents and sampled codes.

The notation is that of gradient.py. Here q̃ is not q, and gradients also reach the codes if these
learn by gradients. Outside of training steps, the code itself is decoded (quantizers/vector.py).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Rows = Float[Tensor, "n d"]


def diveq(e: Rows, q: Rows, noise_variance: float) -> Rows:
    """DiVeQ (Vali et al. 2025, arXiv 2509.26469): q̃ = e + |q − e| sg(u), u = v/|v|.

    v = q − e + noise, with noise from N(0, noise_variance) in each channel. Without noise the value
    is q; then dL/de = g − u (u·g), the gradient without its component along the error, and dL/dq =
    u (u·g).
    """
    direction = (q - e).detach()
    if noise_variance:
        direction = direction + noise_variance**0.5 * torch.randn_like(direction)
    return _moved(e, q, direction)


def noise_substitution(e: Rows, q: Rows) -> Rows:
    """NSVQ (Vali and Bäckström 2022): q̃ = e + |q − e| v/|v| in a random direction, v ~ N(0, I)."""
    return _moved(e, q, torch.randn_like(e))


def gumbel_softmax(e: Rows, codes: Float[Tensor, "k d"], temperature: float) -> Rows:
    """Sample a code, and differentiate the softmax (Jang et al. 2017, with a hard sample).

    p = softmax(−|e − c|/temperature) over all codes c; a code is drawn from p, and the gradient is
    that of Σ p c. Holds n x k numbers several times.
    """
    logits = torch.cdist(e, codes) / -temperature
    gumbel = -torch.empty_like(logits).exponential_().log()
    drawn = F.one_hot((logits + gumbel).argmax(1), len(codes)).to(e.dtype)
    p = logits.softmax(1)
    return (drawn + p - p.detach()) @ codes


def index_backpropagation(
    e: Rows, q: Rows, codes: Float[Tensor, "k d"], temperature: float
) -> Rows:
    """IBQ (Shi et al. 2024, arXiv 2412.02692): the code, and the gradient of a softmax.

    p = softmax(−|e − c|²/temperature) over all codes c. The value is q; its gradient is g, and that
    of Σ p c goes through p to the latent and to every code. With vectors on the unit sphere and
    temperature 2, p is the paper's softmax(e·c). Holds n x k numbers several times.
    """
    p = ((2 * e @ codes.T - codes.square().sum(1)) / temperature).softmax(1)
    soft = p @ codes.detach()
    return q + (soft - soft.detach())


def _moved(e: Tensor, q: Tensor, direction: Tensor) -> Tensor:
    error = torch.linalg.vector_norm(q - e, dim=1, keepdim=True)
    return e + error * F.normalize(direction, dim=1, eps=1e-30)
