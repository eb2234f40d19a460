"""The lines below the scores say what was scored, and why not more."""

from trained import scores_of

from video_vq.evaluation.summary import remarks


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


def test_equal_numbers_need_no_words():
    assert "\n" not in told(256, asked=256, num_fake=256, found=256)
