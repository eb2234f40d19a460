"""The tokenizer, which encodes videos as codes and decodes codes to videos."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, Integer, Shaped, UInt8
from torch import Tensor

from video_vq.errors import InputError
from video_vq.models.backbones.conv import ConvDecoder, ConvEncoder
from video_vq.models.backbones.timesformer import TimeSformerDecoder, TimeSformerEncoder
from video_vq.models.pretrained import Pretrained
from video_vq.models.streaming import TiledStream, piece_latents, recut
from video_vq.models.tokenizer_config import (
    ConvBackboneConfig,
    TimeSformerConfig,
    TokenizerConfig,
    TokenizerFacts,
)
from video_vq.nn.inputs import UnitRange, as_tensor, check_unit_range
from video_vq.quantizers.build import build_quantizer
from video_vq.quantizers.quantizer_config import quantizes
from video_vq.quantizers.rows import QuantizerOutput, unquantized

VideoArray = Float[np.ndarray, "b 3 t h w"] | UInt8[np.ndarray, "b t h w 3"]
VideoLike = Float[Tensor, "b 3 t h w"] | UInt8[Tensor, "b t h w 3"] | VideoArray
CodesLike = Integer[Tensor, "b lt lh lw *level"] | Integer[np.ndarray, "b lt lh lw *level"]


class TokenizerOutput(NamedTuple):
    """A reconstructed video, and the quantizer output with codes, losses, statistics and rows."""

    video: Float[Tensor, "b 3 t h w"]
    quantized: QuantizerOutput


class VideoTokenizer(Pretrained[TokenizerConfig, TokenizerFacts]):
    """A video VQ-VAE, which consists of an encoder, a quantizer and a decoder.

    half(), bfloat16() and double() convert the encoder, the decoder and their inputs; the quantizer
    stays float32. With a convolutional backbone, codes and videos after half() or bfloat16() are
    bitwise equal to the output of the float32 model under autocast to that dtype.

    Args:
        config: backbone and quantizer settings.
        checkpoint_activations: whether to recompute each layer in the backward pass, which takes up
            to a third more time and much less memory. Results do not change.
    """

    kind = "tokenizer"
    config_type = TokenizerConfig
    facts_type = TokenizerFacts

    def __init__(self, config: TokenizerConfig, checkpoint_activations: bool = False):
        super().__init__(config)
        self.encoder = build_encoder(config.backbone, checkpoint_activations)
        self.quantizer = build_quantizer(self.encoder.out_channels, config.quantizer)
        self.decoder = build_decoder(config.backbone, checkpoint_activations)
        self._has_trained = False

    def forward(self, video: VideoLike, continuous: bool = False) -> TokenizerOutput:
        """Reconstruct a video for training.

        In training mode, non-finite latents give a non-finite loss, and the training loop skips and
        counts such steps; in eval mode, non-finite latents raise an error. The pixel range is
        always checked in eval mode, but only for the first video in training mode, so that a GPU
        need not wait.

        Args:
            video: video, as for `encode`.
            continuous: whether to decode the latents themselves instead of the codes.

        Raises:
            InputError: the video is invalid for `encode`; or, in eval mode, latents are not finite.
        """
        features = self._features(video, check=not (self.training and self._has_trained))
        self._has_trained |= self.training
        quantized = self.quantizer(features, check=not self.training)
        if continuous:
            quantized = unquantized(quantized, self.quantizer.project_out)
        return TokenizerOutput(self.decoder(quantized.quantized.to(self.dtype)).float(), quantized)

    @property
    def device(self) -> torch.device:
        """Return the model's device, to which videos and codes are moved."""
        return next(self.parameters()).device

    @property
    def codebook_size(self) -> int:
        """Return the number of codes, K, or of combinations if a position has several codes."""
        return self.config.quantizer.codebook_size

    @property
    def quantizes(self) -> bool:
        """Return whether the decoder was trained on codes rather than on the latents themselves."""
        return quantizes(self.config.quantizer)

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of encoder and decoder, to which videos are converted."""
        return next(self.encoder.parameters()).dtype

    def latents(self, video: VideoLike) -> Float[Tensor, "n d"]:
        """Return the rows that are compared with the codes."""
        return self.quantizer.latents(self._features(video))

    def _features(self, video: VideoLike, check: bool = True) -> Float[Tensor, "b c lt lh lw"]:
        pixels = as_tensor(video, "video").to(self.device)
        self.config.backbone.grid_thw(video_size(pixels))
        if pixels.dtype == torch.uint8:
            pixels = to_pixels(pixels)
        elif check:
            check_unit_range(pixels)
        return self.encoder(pixels.to(self.dtype))

    @torch.no_grad()
    def encode(self, video: VideoLike) -> Int[Tensor, "b lt lh lw *level"]:
        """Return the codes of a video, with a last level axis if a position has several codes.

        Causal tokenizers process the video in chunks (`encode_stream`), and convolutional
        tokenizers process large frames in tiles. The codes equal those of the whole video encoded
        at once, apart from ties within rounding errors.

        Args:
            video: float b c t h w in [-1, 1], or uint8 b t h w c, in RGB, as a tensor or a NumPy
                array. For causal tokenizers, an image is a video of one frame.

        Raises:
            InputError: pixels are out of range, NaN, or appear to lie in [0, 1]; the shape or dtype
                is wrong, or the size does not fit the strides; or latents are not finite.
        """
        video = as_tensor(video, "video")
        self.config.backbone.grid_thw(video_size(video))
        if video.dtype != torch.uint8:
            check_unit_range(video)
        return torch.cat(list(self._encoded([video])), dim=1)

    @torch.no_grad()
    def decode(self, codes: CodesLike) -> Float[Tensor, "b 3 t h w"]:
        """Decode codes into a video, float32 in [-1, 1]; see `encode`.

        Raises:
            InputError: codes are not integers or are out of range, the codes do not form a grid of
                this model, or the decoder was trained on latents instead of codes.
        """
        codes = as_tensor(codes, "codes")
        size_thw = self._size_thw(codes)
        video: Tensor | None = None
        end = 0
        for part in self._decoded([codes]):
            start, end = end, end + part.shape[2]
            if end == size_thw[0] and video is None:
                return part
            if video is None:
                video = part.new_empty(len(part), 3, *size_thw)
            video[:, :, start:end] = part
        assert video is not None
        return video

    def reconstruct(self, video: VideoLike) -> Float[Tensor, "b 3 t h w"]:
        """Return `decode(encode(video))`, or decode the latents if `quantizes` is False.

        Raises:
            InputError: as for `encode`.
        """
        if self.quantizes:
            return self.decode(self.encode(video))
        with torch.no_grad():
            return self(video).video.clamp(-1, 1)

    def encode_stream(
        self, chunks: Iterable[Float[Tensor, "_ 3 _ _ _"] | UInt8[Tensor, "_ _ _ _ 3"] | np.ndarray]
    ) -> Iterator[Int[Tensor, "_ _ _ _ *_level"]]:
        """Yield the codes of a video given in chunks, in memory independent of the video length.

        The codes are bitwise equal to the output of `encode` for the whole video, however the video
        is split, because chunks are regrouped into new chunks of about 16 frames (fewer if frames
        are large).

        Args:
            chunks: chunks of any lengths; the total number of frames is 1 plus a multiple of the
                time stride.

        Raises:
            InputError: the tokenizer is not causal (raised immediately); a chunk is invalid for
                `encode` or differs from the first chunk in more than length (raised at that chunk);
                or the stream is empty, the total length does not fit the stride, or the pixels
                appear to lie in [0, 1] (raised at the end).
        """
        self._require_causal("encode_stream", "encode")
        return self._encoded(chunks)

    def decode_stream(
        self, chunks: Iterable[Integer[Tensor, "_ _ _ _ *_level"] | np.ndarray]
    ) -> Iterator[Float[Tensor, "_ 3 _ _ _"]]:
        """Yield the video, in chunks, for codes given in chunks; see `encode_stream`.

        Raises:
            InputError: the tokenizer is not causal (raised immediately); the decoder was trained on
                latents, or the stream is empty (raised on the first iteration); or a chunk is
                invalid for `decode` or differs from the first chunk in more than length (raised at
                that chunk).
        """
        self._require_causal("decode_stream", "decode")
        return self._decoded(chunks)

    def _encoded(self, chunks: Iterable[Tensor | np.ndarray]) -> Iterator[Tensor]:
        backbone = self.config.backbone
        chunks = _alike(chunks, "video", video_size)
        first = next(chunks, None)
        if first is None:
            raise InputError("the stream holds no frame; a video has at least one")
        num_frames, *size_hw = video_size(first)
        stride_t = backbone.total_stride_thw[0]
        lead, size = num_frames, 1
        if backbone.causal:
            size = stride_t * piece_latents(stride_t, (size_hw[0], size_hw[1]))
            lead = 1 + size
        _, *grid_hw = backbone.grid_thw((lead, size_hw[0], size_hw[1]))
        run = self._stream(self.encoder, (grid_hw[0], grid_hw[1]), reads_pixels=True)
        num_frames = 0
        is_float = first.dtype != torch.uint8
        axis = 2 if is_float else 1
        seen = UnitRange()
        for piece in recut(chain([first], chunks), axis, lead, size):
            num_frames += piece.shape[axis]
            if piece.shape[axis] not in (lead, size):  # only the last chunk may have an invalid end
                backbone.grid_thw((num_frames, size_hw[0], size_hw[1]))
            if is_float:
                seen.look(piece)
            yield self._encode_piece(run, piece)
        if is_float:
            seen.settle()  # after all chunks, since the first may contain only bright pixels

    def _decoded(self, chunks: Iterable[Tensor | np.ndarray]) -> Iterator[Tensor]:
        if not self.quantizes:
            raise InputError(
                "the decoder of this tokenizer was trained on latents (estimator: none) and does "
                "not know the codes; reconstruct(video) decodes latents, and another estimator "
                "trains a tokenizer with codes"
            )
        stride_t, *stride_hw = self.config.backbone.total_stride_thw
        chunks = _alike(chunks, "codes", self._size_thw)
        first = next(chunks, None)
        if first is None:
            raise InputError("the stream holds no codes; a video has at least one latent frame")
        lead, size = first.shape[1], 1
        if self.config.backbone.causal:
            size_hw = first.shape[2] * stride_hw[0], first.shape[3] * stride_hw[1]
            size = piece_latents(stride_t, size_hw)
            lead = 1 + size
        run = self._stream(self.decoder, (first.shape[2], first.shape[3]), reads_pixels=False)
        for piece in recut(chain([first], chunks), 1, lead, size):
            yield self._decode_piece(run, piece)

    @torch.no_grad()
    def _encode_piece(self, run: TiledStream, piece: Tensor) -> Tensor:
        piece = piece.to(self.device)
        pixels = to_pixels(piece) if piece.dtype == torch.uint8 else in_order(piece.float())
        return self.quantizer.encode(run(pixels.to(self.dtype)))

    @torch.no_grad()
    def _decode_piece(self, run: TiledStream, piece: Tensor) -> Tensor:
        features = self.quantizer.decode(piece.to(self.device))
        return run(features.to(self.dtype)).float().clamp(-1, 1)

    def _stream(self, network: Any, grid_hw: tuple[int, int], reads_pixels: bool) -> TiledStream:
        _, stride_h, stride_w = self.config.backbone.total_stride_thw
        is_conv = isinstance(self.config.backbone, ConvBackboneConfig)
        return TiledStream(
            network,
            grid_hw,
            network.margin_hw if is_conv else None,
            (stride_h, stride_w),
            reads_pixels,
            self.config.backbone.causal,
        )

    def _size_thw(self, codes: Tensor) -> tuple[int, int, int]:
        """Return the size of the video that a code grid represents."""
        several = len(self.config.quantizer.vocabulary) > 1
        if codes.ndim != 4 + several or not codes.numel():
            axes = "b t h w level" if several else "b t h w"
            raise InputError(
                f"codes are a non-empty grid {axes}, found the shape {tuple(codes.shape)}"
            )
        backbone = self.config.backbone
        lead = int(backbone.causal)
        t, h, w = backbone.total_stride_thw
        size_thw = (codes.shape[1] - lead) * t + lead, codes.shape[2] * h, codes.shape[3] * w
        backbone.grid_thw(size_thw)
        return size_thw

    def _require_causal(self, asked: str, instead: str) -> None:
        if self.config.backbone.causal:
            return
        clip = "clips"
        if self._facts is not None:
            clip = f"clips of {self._facts.num_frames} frames, as it was trained on,"
        raise InputError(
            f"{asked} needs a causal tokenizer; in this one, each frame sees later ones: pass "
            f"{clip} to {instead}, each on its own, or train one with model.backbone.causal=true"
        )


def to_pixels(
    clips: UInt8[Tensor, "b t h w 3"] | UInt8[np.ndarray, "b t h w 3"],
) -> Float[Tensor, "b 3 t h w"]:
    """Convert uint8 RGB clips to network input in [-1, 1].

    Raises:
        InputError: the clips are not uint8.
    """
    found = as_tensor(clips, "clips")
    if found.dtype != torch.uint8:
        raise InputError(f"to_pixels takes uint8 clips in 0..255, found {found.dtype}")
    channels_first = rearrange(found, "b t h w c -> b c t h w")
    return in_order(channels_first).float().div_(127.5).sub_(1)


def in_order(x: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Return a contiguous copy, since the memory layout affects the rounding of kernels."""
    return x.clone(memory_format=torch.contiguous_format)


def to_uint8(
    video: Float[Tensor, "b 3 t h w"] | Float[np.ndarray, "b 3 t h w"],
) -> UInt8[Tensor, "b t h w 3"]:
    """Convert network output to uint8 clips, rounded to the nearest level and clamped.

    Raises:
        InputError: the video is not floating-point.
    """
    found = as_tensor(video, "video")
    if not found.is_floating_point():
        raise InputError(f"to_uint8 takes floats in [-1, 1], found {found.dtype}")
    levels = found.detach().float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return rearrange(levels, "b c t h w -> b t h w c").contiguous()


def video_size(video: Shaped[Tensor, "..."]) -> tuple[int, int, int]:
    """Return the size t h w of a video, given as float b c t h w or uint8 b t h w c.

    Raises:
        InputError: the shape or dtype is wrong, or the video has no frames.
    """
    channels_last = video.dtype == torch.uint8
    if not (channels_last or video.is_floating_point()):
        raise InputError(f"a video is uint8 b t h w c or float b c t h w, found {video.dtype}")
    if video.ndim != 5 or video.shape[4 if channels_last else 1] != 3 or not video.numel():
        form = "a uint8 video is b t h w 3" if channels_last else "a float video is b 3 t h w"
        to_do = "an image is a video of one frame"
        if video.ndim == 4:
            to_do = "an image is a video of one frame, a video is a batch of one: video[None]"
        elif video.ndim == 5 and video.shape[1 if channels_last else 4] == 3:
            order = "0, 2, 3, 4, 1" if channels_last else "0, 4, 1, 2, 3"
            to_do = f"bring the axes in order: torch.permute(video, ({order}))"
        raise InputError(
            f"{form} with at least one frame, found the shape {tuple(video.shape)}; {to_do}"
        )
    if channels_last:
        return video.shape[1], video.shape[2], video.shape[3]
    return video.shape[2], video.shape[3], video.shape[4]


def _alike(
    chunks: Iterable[Tensor | np.ndarray],
    what: str,
    size_of: Callable[[Tensor], tuple[int, int, int]],
) -> Iterator[Tensor]:
    """Yield the chunks after checking that each chunk is valid and that only lengths differ."""
    expected: tuple[object, ...] | None = None
    for number, given in enumerate(chunks):
        chunk = as_tensor(given, what)
        _, *size_hw = size_of(chunk)
        found = chunk.dtype, len(chunk), *size_hw
        expected = expected or found
        if found != expected:
            of = "type, batch, height, width"
            raise InputError(
                f"chunk {number} of the stream has {of} {found}, the first {expected}; "
                "chunks of a stream may differ only in their length"
            )
        yield chunk


def build_encoder(
    config: ConvBackboneConfig | TimeSformerConfig, checkpoint_activations: bool = False
) -> ConvEncoder | TimeSformerEncoder:
    """Return the encoder that the settings describe."""
    if isinstance(config, TimeSformerConfig):
        return TimeSformerEncoder(config, checkpoint_activations)
    return ConvEncoder(config, checkpoint_activations)


def build_decoder(
    config: ConvBackboneConfig | TimeSformerConfig, checkpoint_activations: bool = False
) -> ConvDecoder | TimeSformerDecoder:
    """Return the decoder that the settings describe."""
    if isinstance(config, TimeSformerConfig):
        return TimeSformerDecoder(config, checkpoint_activations)
    return ConvDecoder(config, checkpoint_activations)
