"""From settings to an encoder and a decoder."""

from video_vq.models.backbones.conv import ConvDecoder, ConvEncoder
from video_vq.models.backbones.timesformer import TimeSformerDecoder, TimeSformerEncoder
from video_vq.models.tokenizer_config import ConvBackboneConfig, TimeSformerConfig


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
