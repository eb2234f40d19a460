"""Tests that the models of the tokenizer bench agree where they must."""

import pytest
import tokenizer as bench
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from videogpt import VideoGPTTokenizer

from video_vq.models.tokenizer import build_decoder, build_encoder


def backbone_operations(contender: str) -> int:
    with FakeTensorMode():
        video = torch.zeros(1, 3, *bench.CLIP)
        if contender in bench.OUR_MODELS:
            config = bench.OUR_MODELS[contender].backbone
            encoder, decoder = build_encoder(config), build_decoder(config)
        else:
            model = VideoGPTTokenizer()
            encoder, decoder = model.encoder, model.decoder
        with FlopCounterMode(display=False) as counter:
            decoder(encoder(video))
    return counter.get_total_flops()


@pytest.mark.parametrize("contender", bench.OUR_MODELS)
def test_our_backbone_does_the_operations_of_the_baseline(contender):
    ours, baseline = backbone_operations(contender), backbone_operations("VideoGPT-like")
    assert ours == pytest.approx(baseline, rel=0.05)


@pytest.mark.parametrize("contender", bench.OUR_MODELS)
def test_tokens_and_codes_are_those_of_the_baseline(contender):
    config = bench.OUR_MODELS[contender]
    assert config.backbone.grid_thw(bench.CLIP) == (4, 16, 16)
    assert config.quantizer.codebook_size == 2048
