"""Tests that the rate proposed for mixed frame rates repeats few frames."""

import pytest

from data_prep.rates import mixed_rates, repeated_frames
from video_vq.stores.videos import Video, num_repeated

# Videos as (frames per second, seconds), the rate that is proposed, and what the commonest would
# repeat. The first: 80 s x 50, 10 s x 35 and 8 s x 30 frames of 114 s x 60 are missing.
ADVICE = {
    "eight of 60 and one long of 10": (
        [(10.0, 80)] + [(60.0, 2)] * 8 + [(25.0, 10), (30.0, 8)],
        "`--fps 10`",
        "(at 60, 67.1% of the frames would be repeats)",
    ),
    "PAL and film": ([(25.0, 10)] * 3 + [(24.0, 10)] * 2, "`--fps 24`", "(at 25, 1.6% of"),
    "NTSC and 30": ([(30_000 / 1001, 10), (30.0, 10), (30.0, 10)], "`--fps 29.97`", "(at 30, 0.0%"),
    "one slow among many": ([(30.0, 10)] * 200 + [(1.0, 10)], "`--fps 30`", None),
    "one that is a little more": ([(30.0, 10)] * 90 + [(1.0, 10)], "`--fps 1`", "(at 30, 1.1% of"),
    "most are slow": ([(10.0, 10)] * 5 + [(60.0, 10)], "`--fps 10`", None),
    "some unknown": ([(25.0, 10), (25.0, 10), (None, 1)], "`--fps 25`", None),
}


@pytest.mark.parametrize(("rates", "proposed", "harm"), ADVICE.values(), ids=ADVICE)
def test_the_proposed_rate_is_one_that_nearly_all_footage_reaches(rates, proposed, harm):
    videos = [
        Video(str(n), None, "train", "g", num_frames=round((fps or 25) * seconds), fps=fps)
        for n, (fps, seconds) in enumerate(rates)
    ]
    (note,) = mixed_rates(videos)
    assert proposed in note
    assert ("would be repeats" in note) == (harm is not None)
    assert harm is None or harm in note


def test_one_rate_or_none_that_is_known_needs_no_advice():
    for rate in (25.0, None):
        assert mixed_rates([Video("a", None, "train", "g", 9, rate)] * 3) == []
    zero = [Video("a", None, "train", "g", 9, 0.0), Video("b", None, "train", "g", 9, None)]
    assert mixed_rates(zero) == []


@pytest.mark.parametrize("found", [None, "3", -1, 9, 2.0, True])
def test_a_count_that_no_program_of_ours_wrote_is_not_known(found):
    video = Video("a", None, "train", "g", 9, 25.0, {"repeated": found})
    assert num_repeated(video) is None
    assert repeated_frames([video], 25.0) == []
    assert num_repeated(Video("a", None, "train", "g", 9, 25.0)) is None
    assert num_repeated(Video("a", None, "train", "g", 9, 25.0, {"repeated": 8})) == 8
