"""The SimVQ codebook: fixed random codes transformed by one learned linear map."""

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.quantizers.fixed import StillCodebook
from video_vq.quantizers.quantizer_config import SimVQConfig
from video_vq.quantizers.rows import CodebookStatistics, check_codes, counts_only


class SimVQCodebook(StillCodebook):
    """K random codes from N(0, 1/D), multiplied by a learned D x D matrix (Zhu et al. 2024).

    The codebook loss trains the matrix, so `update` only counts how often each code is used.
    """

    codes: Tensor

    def __init__(self, config: SimVQConfig):
        super().__init__()
        self.config = config
        size, dim = config.codebook_size, config.codebook_dim
        self.register_buffer("codes", torch.randn(size, dim) * dim**-0.5)
        self.map = nn.Linear(dim, dim, bias=False)

    def vectors(self) -> Float[Tensor, "k d"]:
        """Return the mapped codes, normalized if `normalize` is set."""
        with torch.autocast(self.codes.device.type, enabled=False):
            mapped = self.map(self.codes)
        return F.normalize(mapped, dim=1) if self.config.normalize else mapped

    def comparable(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the projected latents to compare with codes, normalized if `normalize` is set."""
        return F.normalize(latents, dim=1) if self.config.normalize else latents

    def center(self) -> Float[Tensor, "1 d"]:
        """Return the mean of the mapped codes."""
        return self.vectors().detach().mean(0, keepdim=True)

    def statistics(
        self, latents: Float[Tensor, "n d"], indices: Int[Tensor, "n"]
    ) -> CodebookStatistics:
        """Return statistics with only the number of uses of each code."""
        return counts_only(indices, self.config.vocabulary)

    @torch.no_grad()
    def lookup(self, indices: Integer[Tensor, "..."]) -> Float[Tensor, "... d"]:
        """Return the vector of each code.

        Raises:
            InputError: an index is out of range.
        """
        check_codes(indices, self.config.vocabulary)
        return F.embedding(indices.long(), self.vectors())
