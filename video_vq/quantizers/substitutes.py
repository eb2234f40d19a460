"""Vectors that training steps decode in place of the codes: shifted latents and sampled codes.

gradient.py defines the notation. Here q̃ may differ from q, and codes that are trained by gradient
descent also receive gradients. Outside training steps, the codes themselves are decoded
(quantizers/vector.py).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Rows = Float[Tensor, "n d"]


def diveq(e: Rows, q: Rows, noise_variance: float) -> Rows:
    """Return q̃ = e + |q − e| sg(u), u = v/|v| (DiVeQ, Vali et al. 2025, arXiv 2509.26469).

    The direction v is q − e plus noise from N(0, noise_variance) in each channel. Without noise, q̃
    equals q, dL/de = g − u (u·g) is the gradient without its component along the error, and dL/dq =
    u (u·g).
    """
    direction = (q - e).detach()
    if noise_variance:
        direction = direction + noise_variance**0.5 * torch.randn_like(direction)
    return _moved(e, q, direction)


def noise_substitution(e: Rows, q: Rows) -> Rows:
    """Return q̃ = e + |q − e| v/|v| with random v ~ N(0, I) (NSVQ, Vali and Bäckström 2022)."""
    return _moved(e, q, torch.randn_like(e))


def gumbel_softmax(e: Rows, codes: Float[Tensor, "k d"], temperature: float) -> Rows:
    """Return sampled codes with the softmax's gradient (hard Gumbel-softmax, Jang et al. 2017).

    Each code is drawn from p = softmax(−|e − c|/temperature) over all codes c, and has the gradient
    of Σ p c. The computation needs memory for several n x k arrays.
    """
    logits = torch.cdist(e, codes) / -temperature
    gumbel = -torch.empty_like(logits).exponential_().log()
    drawn = F.one_hot((logits + gumbel).argmax(1), len(codes)).to(e.dtype)
    p = logits.softmax(1)
    return (drawn + p - p.detach()) @ codes


def index_backpropagation(
    e: Rows, q: Rows, codes: Float[Tensor, "k d"], temperature: float
) -> Rows:
    """Return q with the gradient of a softmax (IBQ, Shi et al. 2024, arXiv 2412.02692).

    The softmax is p = softmax(−|e − c|²/temperature) over all codes c. q receives the gradient g,
    and Σ p c passes g through p to the latent and to every code. With vectors on the unit sphere
    and temperature 2, p is the paper's softmax(e·c). The computation needs memory for several n x k
    arrays.
    """
    p = ((2 * e @ codes.T - codes.square().sum(1)) / temperature).softmax(1)
    soft = p @ codes.detach()
    return q + (soft - soft.detach())


def _moved(e: Tensor, q: Tensor, direction: Tensor) -> Tensor:
    error = torch.linalg.vector_norm(q - e, dim=1, keepdim=True)
    return e + error * F.normalize(direction, dim=1, eps=1e-30)
