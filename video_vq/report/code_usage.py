"""Shows how evenly the codes are used, in a sentence and with one curve per level."""

import math
from collections.abc import Sequence
from typing import Any

from video_vq.facts import codes as told_codes
from video_vq.report.blocks import Block, Charts, Row, Table, Text
from video_vq.report.charts import Line, line_chart

Counts = Sequence[int]  # number of occurrences of each code of a level, in any order


def counts_of_levels(reconstruction: dict[str, Any]) -> list[list[int]]:
    """Return a list of code counts per level; scores of earlier versions have a single level."""
    counts = reconstruction["code_counts"]
    return counts if isinstance(counts[0], list) else [counts]


def usage_blocks(levels: Sequence[Counts]) -> tuple[Text, *tuple[Block, ...]]:
    """Return blocks that show how evenly the codes are used.

    Args:
        levels: code counts of each level.
    """
    several, num_tokens = len(levels) > 1, sum(levels[0])
    names = [f"level {number}" for number in range(1, len(levels) + 1)] if several else [""]
    lines = [Line(name, _cumulative(counts)) for name, counts in zip(names, levels, strict=True)]
    chart = line_chart("share of tokens in the most used codes", lines, "codes", zero=True)
    explained = (
        "A straight line would be perfectly even use; a line that jumps up at once is a collapsed "
        "codebook."
    )
    if not several:
        perplexity = perplexity_of(levels[0])
        text = (
            f"{_used(levels[0]):,} of {len(levels[0]):,} codes occur among {num_tokens:,} tokens. "
            f"Perplexity {perplexity:.0f}: the codes carry as much as {perplexity:.0f} equally "
            f"frequent ones would. {explained}"
        )
        return Text(text), Charts((chart,))
    rows = tuple(
        Row((name, f"{len(counts):,}", f"{_used(counts):,}", f"{perplexity_of(counts):.1f}"))
        for name, counts in zip(names, levels, strict=True)
    )
    text = (
        f"Each of {num_tokens:,} positions has {len(levels)} codes, of "
        f"{told_codes(map(len, levels))}. {explained}"
    )
    return Text(text), Charts((chart,)), Table(("", "codes", "used", "perplexity"), rows)


def perplexity_of(counts: Counts) -> float:
    """Return the perplexity of the code frequencies: exp of their entropy in nats."""
    total = sum(counts)
    shares = [count / total for count in counts if count > 0]
    return math.exp(-sum(share * math.log(share) for share in shares))


def _used(counts: Counts) -> int:
    return sum(count > 0 for count in counts)


def _cumulative(counts: Counts) -> list[tuple[float, float]]:
    running, total, points = 0, sum(counts), [(0.0, 0.0)]
    for rank, count in enumerate(sorted(counts, reverse=True), 1):
        running += count
        points.append((float(rank), running / total))
    return points
