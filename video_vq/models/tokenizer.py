"""The tokenizer: video to codes and back."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from video_vq.errors import InputError
from video_vq.models.backbones.build import build_decoder, build_encoder
from video_vq.models.pretrained import Pretrained
from video_vq.models.tokenizer_config import TokenizerConfig, TokenizerFacts
from video_vq.quantizers.build import build_quantizer
from video_vq.quantizers.rows import CodebookStatistics, QuantizedRows


class TokenizerOutput(NamedTuple):
    """A reconstruction, its codes, the quantizer's unweighted losses, statistics and rows."""

    video: Float[Tensor, "b 3 t h w"]
    codes: Int[Tensor, "b lt lh lw"]
    commitment: Float[Tensor, ""]
    codebook_loss: Float[Tensor, ""]
    statistics: CodebookStatistics
    rows: QuantizedRows


class VideoTokenizer(Pretrained[TokenizerConfig, TokenizerFacts]):
    """A VQ-VAE of video: encoder, quantizer, decoder.

    Args:
        config: see `TokenizerConfig`.
        checkpoint_activations: recompute each layer in the backward pass: about a third more time
            for much less memory. Changes no result.
    """

    kind = "tokenizer"
    config_type = TokenizerConfig
    facts_type = TokenizerFacts

    def __init__(self, config: TokenizerConfig, checkpoint_activations: bool = False):
        super().__init__(config)
        self.encoder = build_encoder(config.backbone, checkpoint_activations)
        self.quantizer = build_quantizer(self.encoder.out_channels, config.quantizer)
        self.decoder = build_decoder(config.backbone, checkpoint_activations)

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> TokenizerOutput:
        """Reconstruct a video in [-1, 1] for training.

        In training mode latents that are not finite make a loss that is not finite, which the loop
        skips and counts; in eval mode they are an error.

        Raises:
            InputError: the clip does not divide by the strides.
        """
        self.config.backbone.grid_thw((video.shape[2], video.shape[3], video.shape[4]))
        quantized = self.quantizer(self.encoder(video), check=not self.training)
        return TokenizerOutput(
            video=self.decoder(quantized.quantized).float(),
            codes=quantized.codes,
            commitment=quantized.commitment,
            codebook_loss=quantized.codebook_loss,
            statistics=quantized.statistics,
            rows=quantized.rows,
        )

    def latents(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "n d"]:
        """Return the rows that would be quantized: what the first codes are drawn from."""
        return self.quantizer.latents(self.encoder(video))

    @torch.no_grad()
    def encode(
        self, video: Float[Tensor, "b 3 t h w"] | UInt8[Tensor, "b t h w 3"]
    ) -> Int[Tensor, "b lt lh lw"]:
        """Return the codes of a video.

        Args:
            video: float b c t h w in [-1, 1], or uint8 b t h w c RGB.

        Raises:
            InputError: values outside the range, NaN, or a size that the strides do not divide.
        """
        pixels = _checked(video)
        self.config.backbone.grid_thw((pixels.shape[2], pixels.shape[3], pixels.shape[4]))
        return self.quantizer.encode(self.encoder(pixels))

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "b lt lh lw"]) -> Float[Tensor, "b 3 t h w"]:
        """Return the video that codes stand for, float in [-1, 1].

        Raises:
            InputError: a code lies outside the codebook.
        """
        return self.decoder(self.quantizer.decode(codes)).float().clamp(-1, 1)

    def reconstruct(
        self, video: Float[Tensor, "b 3 t h w"] | UInt8[Tensor, "b t h w 3"]
    ) -> Float[Tensor, "b 3 t h w"]:
        """Return `decode(encode(video))`."""
        return self.decode(self.encode(video))


def to_pixels(clips: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b 3 t h w"]:
    """Turn uint8 clips into network input in [-1, 1]: the one place where this is done."""
    return rearrange(clips, "b t h w c -> b c t h w").float().div_(127.5).sub_(1)


def to_uint8(video: Float[Tensor, "b 3 t h w"]) -> UInt8[Tensor, "b t h w 3"]:
    """Turn network output into uint8 clips, rounded to the nearest level and clamped."""
    levels = video.detach().float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return rearrange(levels, "b c t h w -> b t h w c").contiguous()


def _checked(video: Tensor) -> Tensor:
    if video.dtype == torch.uint8:
        return to_pixels(video)
    if not torch.isfinite(video).all():
        raise InputError("the video holds NaN or infinite values")
    low, high = float(video.min()), float(video.max())
    if low < -1.001 or high > 1.001:
        raise InputError(
            f"a float video lies in [-1, 1], found {low:.3g}..{high:.3g}; "
            "pass uint8 b t h w c, or x / 127.5 - 1"
        )
    return video
