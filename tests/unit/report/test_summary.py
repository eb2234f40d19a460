"""The lines below the scores say what was scored, and why not more."""

from trained import scores_of

from video_vq.evaluation.generation_protocols import as_scored, generation_protocol, simulation
from video_vq.report.summary import remarks


def told(num_clips: int, asked: int, num_fake: int, found: int, split: str = "test") -> str:
    scores = scores_of("tokenizer") | {"num_clips": num_clips, "split": split}
    scores["identity"]["num_clips"] = asked
    scores["generation"] |= {"num_samples": found, "protocol": None}
    scores["generation"]["gfvd"]["num_fake"] = num_fake
    return "\n".join(remarks(scores))


def test_fewer_clips_than_asked_for_and_fewer_samples_are_said():
    lines = told(22, asked=64, num_fake=16, found=16, split="train")
    assert "22 real clips were scored, not 64: split train holds no more" in lines
    assert "gFVD is of 16 samples against 22 real clips" in lines
    assert "`video-vq sample --num 22` makes them equal" in lines


def test_samples_that_were_left_out_are_said():
    lines = told(6, asked=6, num_fake=6, found=16)
    assert "of 16 samples the first 6 were scored, as many as there are real clips" in lines
    assert "real clips were scored, not" not in lines
    assert "against" not in lines.split("\n", 1)[1]


def test_simulated_videos_are_said_beside_the_scores_and_their_protocol():
    scores = scores_of("tokenizer")
    assert simulation(scores) is None
    scores["made_by"] = {"data": {"source": "bair", "simulated": "a toy world"}}
    beyond = "The videos are simulated (a toy world): no score compares with a published one"
    assert f"{beyond}." in remarks(scores)
    told = as_scored(generation_protocol("bair-256"), "a toy world")
    assert told["simulated"] == "a toy world"
    assert told["note"].startswith("on simulated videos, not on bair-256's; frames 0-15")
    scores["generation"]["protocol"] = told
    under = "bair-256 says how clips and samples were taken, not which videos"
    assert f"{beyond}; {under}." in remarks(scores)
    assert "simulated" not in as_scored(generation_protocol("bair-256"), None)


def test_equal_numbers_need_no_words():
    assert "\n" not in told(256, asked=256, num_fake=256, found=256)
