"""The parts of a GPU day, in order: correctness, speed and training."""

import card_ranks
import correctness
import pushing
import speed
import speed_tokenizer
from config_table import CONFIGS, names_of
from day import Day, Part

ARMS = ("straight_through", "rotation", "rotation_unit", "rms_tangential")
SEEDS = (0, 1)


def parts(day: Day) -> list[Part]:
    """Return all parts; a rehearsal times one config and trains one arm of the study."""
    configs = list(CONFIGS.items())
    arms = [(arm, seed) for seed in SEEDS for arm in ARMS]
    return [
        Part("correct/lookup", correctness.lookup, 120),
        Part("correct/rotation", correctness.rotation, 180),
        Part("correct/quantizer", correctness.quantizer, 180),
        Part("correct/fvd", correctness.fvd, 120),
        Part("correct/training_step", correctness.training_step, 180),
        Part("correct/channels_last", correctness.layouts, 120),
        Part("correct/streams", correctness.streams, 120),
        Part("correct/sampling", correctness.sampling, 180),
        Part("correct/compiled_training", correctness.compiled_training, 300),
        Part("correct/shared_card", card_ranks.shared_card, 120),
        Part("correct/several_cards", card_ranks.several_cards, 240),
        Part("speed/ceilings", speed.ceilings, 120),
        Part("speed/quantizer", speed.quantizer, 240),
        Part("speed/sampling", speed.sampling, 300),
        Part("speed/fvd", speed.fvd, 120),
        Part("speed/loading", speed.loading, 240),
        *(
            Part(f"speed/{names_of(name)[0]}", speed_tokenizer.measured(name, side), 360)
            for name, side in day.pick(configs, configs[2:3])
        ),
        Part("train/clips", pushing.make_clips, 420),
        Part("train/bair_small", pushing.bair_small, pushing.PIECE_LIMIT),
        *(
            Part(f"train/{arm}-{seed}", pushing.study_arm(arm, seed), pushing.PIECE_LIMIT)
            for arm, seed in day.pick(arms, arms[1:2])
        ),
    ]
