"""Copies the results of a GPU day into the docs and into the record of enabled features.

    python scripts/gpu/record.py gpu/results.json   # adds or replaces the results of a card
    python scripts/gpu/record.py                    # rewrites the passages of the docs

The results go to docs/gpu_results.json. Two things are derived from it: all passages of the docs
between `<!-- gpu: NAME -->` and `<!-- end of gpu -->`, which are therefore never outdated, and
video_vq/nn/verified_cards.json, which decides for each card whether the Triton lookup, the compiled
backward pass, channels last and CUDA graphs are used.
"""

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from day import Figures, Results
from day_table import table, wrong_checks

from video_vq.nn.cards import RECORD
from video_vq.stores.files import write_bytes

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "gpu_results.json"
PAGES = ("README.md", "docs/architecture.md", "docs/configs.md", "docs/gpu.md")
PAGES += ("docs/headline.md", "docs/multi_gpu.md", "docs/results.md", "docs/scale.md")
PASSAGE = re.compile(r"<!-- gpu: ([a-z_]+) -->.*?<!-- end of gpu -->", re.DOTALL)
GAIN = 1.05  # median speed-up that a feature needs to be switched on

Cards = dict[str, Results]  # by name, in the order in which they were recorded


def recorded() -> Cards:
    """Return the results of all recorded cards."""
    if not KEPT.exists():
        return {}
    cards: Cards = {}
    for name, held in json.loads(KEPT.read_text()).items():
        cards[name] = Results(KEPT)
        cards[name].machine, cards[name].parts = held["machine"], held["parts"]
    return cards


def gains(results: Results) -> dict[str, list[float]]:
    """Return the speed-ups of each feature, one for each pair of times without and with it."""
    sizes = results.parts.get("speed/quantizer", {}).get("sizes", {}).values()
    batches = results.parts.get("speed/sampling", {}).get("batches", {}).values()
    configs = [figures["ways"] for figures in results.parts.values() if "ways" in figures]
    return {
        "triton_lookup": _ratios(sizes, "lookup torch ms", "lookup triton ms"),
        "compiled_rotation": _ratios(sizes, "backward as written ms", "backward compiled ms"),
        "sampling_graphs": _ratios(batches, "as written ms", "graphs ms"),
        "channels_last": [
            ways["as written"]["ms"] / ways["channels_last"]["ms"]
            for ways in configs
            if "channels_last" in ways
        ],
    }


def _ratios(rows: Iterable[Figures], slow: str, fast: str) -> list[float]:
    return [row[slow] / row[fast] for row in rows if slow in row and fast in row]


PROOFS = {
    "triton_lookup": ("correct/lookup", "correct/quantizer"),
    "compiled_rotation": ("correct/rotation",),
    "sampling_graphs": ("correct/sampling",),
    "channels_last": ("correct/channels_last",),
}


def verified(results: Results) -> list[str]:
    """Return the features that passed every check, with a median speed-up of at least `GAIN`."""
    wrong = {name.partition(":")[0] for name in wrong_checks(results)}
    return [
        feature
        for feature, found in gains(results).items()
        if all(results.is_done(part) and part not in wrong for part in PROOFS[feature])
        and found
        and statistics.median(found) >= GAIN
    ]


def told(cards: Cards) -> str:
    """Return the names of cards and the dates of their measurements."""
    return ", ".join(f"{name} ({held.machine['started'][:10]})" for name, held in cards.items())


def having(cards: Cards, prefix: str) -> Cards:
    """Return the cards with a finished part whose name begins with a prefix."""
    return {
        name: held
        for name, held in cards.items()
        if any(part.startswith(prefix) and held.is_done(part) for part in held.parts)
    }


def sentence(prefix: str, unmeasured: str, link: str) -> Callable[[Cards], str]:
    """Return a function that states in a sentence on which cards some parts were measured.

    Args:
        prefix: beginning of the names of the parts.
        unmeasured: sentence to use if no card has such a part.
        link: page that the sentence links to.
    """

    def passage(cards: Cards) -> str:
        found = having(cards, prefix)
        return f"Measured on {told(found)}: [figures]({link}#on-a-gpu)." if found else unmeasured

    return passage


def ranks(cards: Cards) -> str:
    """Return the sentences about runs on several GPU ranks."""
    shared, several = having(cards, "correct/shared_card"), having(cards, "correct/several_cards")
    several = {name: held for name, held in several.items() if held.machine["cards"] > 1}
    nccl = f"NCCL: on {told(several)}" if several else "NCCL: not run yet"
    if not shared:
        return f"{nccl}. Two ranks that share one GPU, over gloo: not run yet."
    return f"{nccl}. Two ranks that share one GPU, over gloo: on {told(shared)}."


def switched_on(cards: Cards) -> str:
    """Return a sentence for each card, naming the features that are on by default."""
    if not cards:
        return "No card is in the record yet, so the plain implementations are used everywhere."
    return " ".join(
        f"{name}: {', '.join(verified(held)) or 'none'}." for name, held in cards.items()
    )


def section(cards: Cards) -> str:
    """Return the tables of all cards."""
    if not cards:
        return "## On a GPU\n\nNot measured yet. [`make gpu`](gpu.md) is ready for it."
    return "\n\n".join(table(held).rstrip() for held in cards.values())


PASSAGES: dict[str, Callable[[Cards], str]] = {
    "nothing": sentence("", "Nothing here was measured on a GPU.", ""),
    "quantizer": sentence(
        "speed/quantizer",
        "Nothing of the quantizer was measured on a GPU, and the Triton kernel has run in Triton's "
        "interpreter only.",
        "",
    ),
    "readme": sentence("", "Nothing was measured on a GPU.", "docs/results.md"),
    "headline": sentence("", "Nothing here was measured on a GPU.", "results.md"),
    "hours": sentence("speed/video64", "No GPU was timed.", "results.md"),
    "lookup": sentence(
        "correct/lookup",
        "The kernel has run in Triton's interpreter only: it was not measured on a GPU.",
        "results.md",
    ),
    "tokenizing": sentence("speed/video64", "**not measured on a GPU**", "results.md"),
    "ranks": ranks,
    "switched_on": switched_on,
    "section": section,
}


def with_passages(page: str, cards: Cards) -> str:
    """Return a page with its passages updated from the record.

    Raises:
        KeyError: a passage has an unknown name.
    """

    def passage(match: re.Match[str]) -> str:
        name = match[1]
        edge = "\n" if name == "section" else ""
        return f"<!-- gpu: {name} -->{edge}{PASSAGES[name](cards)}{edge}<!-- end of gpu -->"

    return PASSAGE.sub(passage, page)


def write(cards: Cards) -> None:
    """Write the results, the record of enabled features, and the passages of the docs."""
    if cards:
        held = {
            name: {"machine": found.machine, "parts": found.parts} for name, found in cards.items()
        }
        write_bytes(KEPT, json.dumps(held, indent=1).encode() + b"\n")
    features = {
        name: {
            "features": verified(held),
            "faster": {key: [round(x, 3) for x in found] for key, found in gains(held).items()},
            "torch": held.machine["torch"],
            "date": held.machine["started"][:10],
        }
        for name, held in cards.items()
    }
    write_bytes(RECORD, json.dumps({"cards": features}, indent=1).encode() + b"\n")
    for page in PAGES:
        path = ROOT / page
        path.write_text(with_passages(path.read_text(), cards))


def main(arguments: list[str]) -> None:
    """Add a file of results, if one is given, and write everything that follows from the record."""
    cards = recorded()
    if arguments:
        results = Results(Path(arguments[0]))
        if not results.parts or results.machine["is_smoke"]:
            sys.exit(f"{arguments[0]}: holds no figures of a GPU; `make gpu` makes them")
        cards[results.machine["device"]] = results
    write(cards)
    print(switched_on(cards))


if __name__ == "__main__":
    main(sys.argv[1:])
