"""Tests of the lines below the scores, which say what was scored."""

from trained import scores_of

from video_vq.evaluation.generation_protocols import as_scored, generation_protocol, simulation
from video_vq.report.summary import remarks
from video_vq.report.verdicts import headlines


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
    beyond = "The videos are simulated (a toy world): no score is comparable with a published one"
    assert f"{beyond}." in remarks(scores)
    told = as_scored(generation_protocol("bair-256"), "a toy world")
    assert told["simulated"] == "a toy world"
    assert told["note"].startswith("on simulated videos, not on bair-256's; frames 0-15")
    scores["generation"]["protocol"] = told
    under = "bair-256 says how clips and samples were taken, not which videos"
    assert f"{beyond}; {under}." in remarks(scores)
    assert "simulated" not in as_scored(generation_protocol("bair-256"), None)


def test_a_codec_that_took_more_bits_than_the_tokens_judges_nothing():
    scores = scores_of("tokenizer")  # a PSNR of 27.25 dB
    scores["controls"] = {"psnr_first_frame": 20.0, "psnr_av1_above": 40.0}
    del scores["prior"]
    first = headlines(scores).items[0]
    assert first.good is True
    assert "beats the hardest control, 20.00" in first.verdict


def test_equal_numbers_need_no_words():
    assert "\n" not in told(256, asked=256, num_fake=256, found=256)


def test_a_codec_s_wins_are_said_first_and_what_it_took_beside_them():
    scores = scores_of("tokenizer")
    coded = {"codec": "h264", "title": "H.264", "rate": "tokens", "bits_per_clip": 2304.0}
    coded |= {"payload_bits": 2235.0, "file_bits": 9000.0, "share_above": 0.0}
    coded |= {"psnr": {"mean": 26.0}, "ssim": {"mean": 0.95}, "rfvd": {"value": 30.0}}
    worse = {"rate": "prior", "share_above": 0.25, "rfvd": {"value": 300.0}, "ssim": {"mean": 0.1}}
    scores["codecs"] = [coded, coded | worse]
    first, second = (line for line in remarks(scores) if line.startswith("H.264"))
    assert first == (
        "H.264 wins in SSIM and rFVD at the tokens' bits (2,304 a clip, took 2,235): "
        "PSNR 26.00 against 27.25, SSIM 0.95 against 0.9, rFVD 30.00 against 41.50"
    )
    assert second.startswith(
        "H.264 wins in nothing at the bits after the prior (2,304 a clip, took 2,235, as 25% of "
        "the clips need more)"
    )


def test_at_small_n_the_unbiased_distance_stands_beside_fvd():
    scores = scores_of("tokenizer")
    scores["num_clips"] = 6
    scores["reconstruction"]["rfvd"]["kvd"] = {"value": 1.25, "standard_error": 0.5}
    [line] = [line for line in remarks(scores) if "is an illustration" in line]
    assert line.endswith("; KVD, which has no such bias, is 1.25 ± 0.5 for reconstructions")
    del scores["prior"]
    scores["protocol"]["pad_to"] = 16
    assert "padded rFVD" in [item.name for item in headlines(scores).items]
