"""The arms of quality.py: 4x4x4 pixels per token, and 512 codes unless there is no quantizer."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from magvit import MAGVIT, MAGVIT_WITH_OURS, MagvitTokenizer
from recipes import ADAMW, OURS, Baseline, OurLoss, Recipe, Reconstruction
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize
from videogpt import VideoGPTTokenizer
from vidtok import VIDTOK, VidTokTokenizer

from video_vq.models.backbones.conv import ConvDecoder, ConvEncoder
from video_vq.models.tokenizer_config import ConvBackboneConfig
from video_vq.quantizers.build import build_quantizer
from video_vq.quantizers.quantizer_config import FiniteConfig, QuantizerConfig
from video_vq.quantizers.rows import CodebookStatistics
from video_vq.quantizers.vector import VectorQuantizer
from video_vq.training.optimizer import OUTER_LAYERS

CODEBOOK_SIZE, CODEBOOK_DIM = 512, 32
PIXELS_THW = (4, 4, 4)  # that one token stands for
# The demo's backbone, and one with about as many operations per clip as the VideoGPT-like VQ-VAE.
SMALL = ConvBackboneConfig(
    patch_thw=(2, 2, 2),
    stem_kernel=1,
    strides_thw=((2, 2, 2),),
    multipliers=(1, 2),
    num_blocks=1,
    upsampling="subpixel",
)
WIDE = ConvBackboneConfig(
    patch_thw=(2, 4, 4),
    strides_thw=((2, 1, 1),),
    multipliers=(1, 4),
    channels=96,
    num_blocks=1,
    upsampling="subpixel",
)


class Peer(nn.Module):
    """The quantizer of vector-quantize-pytorch between the same linear maps as in ours."""

    def __init__(self, dim: int):
        super().__init__()
        self.project_in = nn.Linear(dim, CODEBOOK_DIM)
        self.project_out = nn.Linear(CODEBOOK_DIM, dim)
        self.quantizer = VectorQuantize(
            CODEBOOK_DIM,
            CODEBOOK_SIZE,
            decay=0.99,
            commitment_weight=1.0,
            kmeans_init=True,
            threshold_ema_dead_code=2,
            rotation_trick=False,
        )

    def forward(
        self, features: Float[Tensor, "b c t h w"]
    ) -> tuple[Float[Tensor, "b c t h w"], Int[Tensor, "b t h w"], Float[Tensor, ""]]:
        """Return quantized features, codes and commitment loss; training updates the codebook."""
        with torch.autocast(features.device.type, enabled=False):
            rows = rearrange(features.float(), "b c t h w -> b t h w c")
            flat = rearrange(self.project_in(rows), "b t h w d -> b (t h w) d")
            quantized, indices, commitment = self.quantizer(flat)
            rows = self.project_out(quantized).view(rows.shape)
        codes = indices.view(rows.shape[:-1])
        return rearrange(rows, "b t h w c -> b c t h w"), codes, commitment.sum()


class Bottleneck(nn.Module):
    """Linear maps to the dimension of a code and back, without quantization."""

    def __init__(self, dim: int):
        super().__init__()
        self.maps = nn.Sequential(nn.Linear(dim, CODEBOOK_DIM), nn.Linear(CODEBOOK_DIM, dim))

    def forward(self, features: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Return the features after both maps, in float32."""
        with torch.autocast(features.device.type, enabled=False):
            rows = self.maps(rearrange(features.float(), "b c t h w -> b t h w c"))
            return rearrange(rows, "b t h w c -> b c t h w")


class Ours(nn.Module):
    """Our encoder and decoder around our quantizer, `Peer` or `Bottleneck`."""

    outer_layers = OUTER_LAYERS

    def __init__(
        self, backbone: ConvBackboneConfig, quantizer: QuantizerConfig | FiniteConfig | type
    ):
        super().__init__()
        self.encoder = ConvEncoder(backbone)
        self.decoder = ConvDecoder(backbone)
        dim = self.encoder.out_channels
        is_ours = isinstance(quantizer, QuantizerConfig | FiniteConfig)
        self.quantizer = build_quantizer(dim, quantizer) if is_ours else quantizer(dim)
        self._statistics: CodebookStatistics | None = None

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Reconstruction:
        """Reconstruct a video in [-1, 1]."""
        features = self.encoder(video)
        if isinstance(self.quantizer, Peer):
            quantized, codes, commitment = self.quantizer(features)
            return Reconstruction(self.decoder(quantized).float(), codes, commitment)
        if isinstance(self.quantizer, Bottleneck):
            video = self.decoder(self.quantizer(features)).float()
            return Reconstruction(video, None, features.new_zeros(()))
        output = self.quantizer(features)
        self._statistics = output.statistics
        video = self.decoder(output.quantized).float()
        commitment = output.losses.get("commitment", features.new_zeros(()))  # FSQ has none
        return Reconstruction(video, output.codes, commitment)

    def begin(self, video: Float[Tensor, "b 3 t h w"]) -> None:
        """Draw our first codes from the first batch; the peer does so in its first forward pass."""
        if isinstance(self.quantizer, VectorQuantizer):
            with torch.no_grad():
                latents = self.quantizer.latents(self.encoder(video))
            self.quantizer.codebook.initialize((latents,), torch.initial_seed())

    def end_step(self) -> None:
        """Update our codebook after an optimizer step; the peer's changes in the forward pass."""
        if isinstance(self.quantizer, VectorQuantizer) and self._statistics is not None:
            self.quantizer.codebook.update(self._statistics, torch.initial_seed())


class VideoGPTLike(Baseline):
    """The VideoGPT-like VQ-VAE, with the same number of codes as the other arms."""

    def __init__(self):
        super().__init__()
        self.model = VideoGPTTokenizer(codebook_size=CODEBOOK_SIZE)

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Reconstruction:
        """Reconstruct a video in [-1, 1]."""
        return Reconstruction(*self.model(video))


class Arm(NamedTuple):
    """A tokenizer to compare, and how to train it.

    Attributes:
        make: function that returns the model with new weights.
        learning_rates: learning rates to try at the median budget; the best is used for all.
        recipe: loss and optimizer of the arm.
    """

    make: Callable[[], Ours | Baseline]
    learning_rates: tuple[float, ...]
    recipe: Recipe = OURS


LEARNED = QuantizerConfig(codebook_size=CODEBOOK_SIZE, codebook_dim=CODEBOOK_DIM)
STRAIGHT_THROUGH = replace(LEARNED, estimator="straight_through")
FROZEN = replace(STRAIGHT_THROUGH, learning="frozen")
OUR_RATE = 4e-3  # of the demo's tokenizer
OUR_RATES = (1e-3, OUR_RATE)  # for other architectures

ARMS = {
    "ours": Arm(lambda: Ours(SMALL, STRAIGHT_THROUGH), (OUR_RATE,)),
    "ours, rotation": Arm(lambda: Ours(SMALL, LEARNED), (OUR_RATE,)),
    "vector-quantize-pytorch": Arm(lambda: Ours(SMALL, Peer), (OUR_RATE,)),
    "FSQ": Arm(lambda: Ours(SMALL, FiniteConfig(levels=(8, 8, 8))), (OUR_RATE,)),
    "no quantizer": Arm(lambda: Ours(SMALL, Bottleneck), (OUR_RATE,)),
    "frozen random codes": Arm(lambda: Ours(SMALL, FROZEN), (OUR_RATE,)),
    "ours, wide": Arm(lambda: Ours(WIDE, STRAIGHT_THROUGH), OUR_RATES),
    "VideoGPT-like": Arm(
        VideoGPTLike, (3e-4, 1e-3), Recipe(lambda: OurLoss(commitment=0.25), ADAMW)
    ),
    # VidTok's rate is 1e-5 for each of the 16 clips of its batch; MAGVIT's is 1e-4 for 128 clips.
    "VidTok-like": Arm(lambda: VidTokTokenizer(16), (1.6e-4, 1e-3), VIDTOK),
    "VidTok-like, our recipe": Arm(lambda: VidTokTokenizer(16), OUR_RATES),
    "VidTok-like, wide": Arm(lambda: VidTokTokenizer(32), (1.6e-4, 1e-3), VIDTOK),
    "VidTok-like, wide, our recipe": Arm(lambda: VidTokTokenizer(32), OUR_RATES),
    "MAGVIT-like": Arm(lambda: MagvitTokenizer(16, 1), (1e-4, 1e-3), MAGVIT),
    "MAGVIT-like, our recipe": Arm(lambda: MagvitTokenizer(16, 1), OUR_RATES, MAGVIT_WITH_OURS),
    "MAGVIT-like, wide": Arm(lambda: MagvitTokenizer(32, 1), (1e-4, 1e-3), MAGVIT),
    "MAGVIT-like, wide, our recipe": Arm(
        lambda: MagvitTokenizer(32, 1), OUR_RATES, MAGVIT_WITH_OURS
    ),
}
