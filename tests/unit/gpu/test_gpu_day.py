"""Tests of the GPU measurements: each part runs once, resumes, is recorded and documented."""

import copy
import json
import re
import sys
import time

import correctness
import day_parts
import missing
import pytest
import record
import run_day
from config_table import CONFIGS
from day import Day, Figures, Part, Results, check

LONGEST = 480  # seconds; a card is often lent for minutes only
UNMEASURED = re.compile(r"(not|nothing|no GPU|never)[^.|]{0,80}(measured on a GPU|was timed)", re.I)

MEASURED: Figures = {
    "machine": {
        "device": "Card A",
        "is_smoke": False,
        "cards": 2,
        "torch": "2.11.0",
        "git": "0" * 40,
        "started": "2026-12-01T00:00:00Z",
        "python": "3.12.3",
    },
    "parts": {
        "correct/lookup": {"status": "done", "seconds": 1, "checks": {"a": check(0, 0)}},
        "correct/quantizer": {"status": "done", "seconds": 1, "checks": {"b": check(1e-6, 1e-4)}},
        "correct/sampling": {"status": "done", "seconds": 1, "checks": {"c": check(2, 0)}},
        "correct/several_cards": {"status": "done", "seconds": 1, "checks": {}},
        "speed/quantizer": {
            "status": "done",
            "seconds": 1,
            "sizes": {"1x1x1": {"lookup torch ms": 2.0, "lookup triton ms": 1.0}},
        },
        "speed/sampling": {
            "status": "done",
            "seconds": 1,
            "batches": {"batch 1": {"as written ms": 9.0, "graphs ms": 1.0}},
        },
    },
}


@pytest.fixture
def measured(tmp_path) -> Results:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(MEASURED))
    return Results(path)


def a_part(name: str, work) -> Part:
    return Part(name, work, seconds=20)


@pytest.fixture
def day(tmp_path, monkeypatch) -> Day:
    """Return a rehearsal on the CPU with made-up facts about the machine."""
    machine = {"device": "cpu", "is_smoke": True, "torch": "", "python": "", "git": None}
    monkeypatch.setattr(run_day, "machine", lambda day: {**machine, "started": "2026-12-01"})
    return Day(tmp_path, "cpu", True)


def status(day: Day) -> dict[str, str]:
    parts = json.loads((day.out / "results.json").read_text())["parts"]
    return {name: figures["status"] for name, figures in parts.items()}


def test_parts_are_done_once_and_failed_ones_again(day, capsys):
    def count(day: Day) -> Figures:
        with (day.out / "calls").open("a") as file:
            file.write(".")
        return {"checks": {}}

    def fail_at_first(day: Day) -> Figures:
        if (day.out / "a second time").exists():
            return {}
        (day.out / "a second time").touch()
        sys.exit("no card")

    def in_pieces(day: Day) -> Figures:
        with (day.out / "pieces").open("a") as file:
            file.write(".")
        return {"unfinished": len((day.out / "pieces").read_text()) < 3}

    chosen = [a_part("a", count), a_part("b", fail_at_first), a_part("c", in_pieces)]
    assert run_day.run(day, chosen, 10) == 1
    assert status(day) == {"a": "done", "b": "failed", "c": "done"}
    assert re.search(r"b: failed, \d+ s; SystemExit: no card", capsys.readouterr().out)
    assert run_day.run(day, chosen, 10) == 0
    assert status(day) == {"a": "done", "b": "done", "c": "done"}
    assert (day.out / "calls").read_text() == "."
    assert (day.out / "pieces").read_text() == "..."


def test_a_part_that_hangs_or_dies_does_not_take_the_day_along(day):
    chosen = [
        Part("hangs", lambda day: time.sleep(60) or {}, seconds=1),
        a_part("dies", lambda day: run_day.os.kill(run_day.os.getpid(), 9) or {}),
        a_part("good", lambda day: {"x": 1.0}),
    ]
    assert run_day.run(day, chosen, 10) == 2
    parts = Results(day.out / "results.json").parts
    assert parts["hangs"]["said"] == "not done after 1 s"
    assert parts["dies"]["said"] == "its process died"
    assert parts["good"]["x"] == 1.0
    assert "`hangs`: not done after 1 s" in (day.out / "table.md").read_text()


def test_no_part_begins_that_may_end_later_than_asked(day):
    chosen = [Part("short", lambda day: {}, 30), Part("long", lambda day: {}, 61)]
    assert run_day.run(day, chosen, minutes=1) == 1
    assert status(day) == {"short": "done"}


def test_results_of_another_card_are_not_mixed(day, measured):
    with pytest.raises(SystemExit, match="is of Card A; name another folder: OUT="):
        run_day.run(day, [], 10)


def test_every_part_is_short_and_every_shipped_config_is_timed(tmp_path):
    names = [part.name for part in day_parts.parts(Day(tmp_path, "cuda", False))]
    assert len(names) == len(set(names))
    assert len([name for name in names if name.startswith("speed/")]) == 5 + len(CONFIGS)
    parts = day_parts.parts(Day(tmp_path, "cuda", False))
    assert max(part.seconds for part in parts) <= LONGEST


def test_the_gradient_of_a_step_in_float16_is_that_of_the_unscaled_loss(day):
    figures = correctness.training_step(day)
    assert figures["relative error of the gradient, float32"] == 0
    assert figures["relative error of the gradient, fp16"] < 1


def test_a_machine_says_in_one_line_what_it_lacks(monkeypatch):
    monkeypatch.setattr(
        missing.importlib.util, "find_spec", lambda name: name != "pydantic" or None
    )
    said = missing.missing(True)
    assert said is not None
    assert said.startswith("pydantic for ")
    assert "\n" not in said
    monkeypatch.undo()
    assert missing.missing(True) is None
    monkeypatch.setattr("torch.__version__", "2.10.1+cu128")
    assert missing.missing(False) == "torch >= 2.11, found 2.10.1+cu128"
    monkeypatch.setattr("torch.__version__", "2.11.0+cu130")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert missing.missing(False) == (
        "a GPU that CUDA sees (try nvidia-smi); without one: SMOKE=1 make gpu"
    )


def test_only_what_was_right_and_faster_is_switched_on(measured):
    assert record.verified(measured) == ["triton_lookup"]  # graphs drew other tokens
    slower = copy.deepcopy(measured)
    slower.parts["speed/quantizer"]["sizes"]["1x1x1"]["lookup triton ms"] = 1.99
    assert record.verified(slower) == []
    unproved = copy.deepcopy(measured)
    unproved.parts["correct/quantizer"]["status"] = "failed"
    assert record.verified(unproved) == []


def test_a_record_takes_back_the_sentences_that_are_no_longer_true(measured):
    page = "<!-- gpu: quantizer --><!-- end of gpu --> <!-- gpu: hours --><!-- end of gpu -->"
    before = record.with_passages(page, {})
    assert "Nothing of the quantizer was measured on a GPU" in before
    after = record.with_passages(before, {"Card A": measured})
    assert "Measured on Card A (2026-12-01): [figures](#on-a-gpu)." in after
    assert "No GPU was timed." in after  # no part of that day timed a config
    assert record.ranks({"Card A": measured}).startswith("NCCL: on Card A (2026-12-01).")
    assert "**wrong: c**" in record.section({"Card A": measured})


def test_a_rehearsal_is_not_recorded(measured):
    measured.machine["is_smoke"] = True
    measured.save()
    with pytest.raises(SystemExit, match="holds no figures of a GPU"):
        record.main([str(measured.path)])


@pytest.mark.parametrize("page", record.PAGES)
def test_the_docs_say_of_gpus_what_the_record_holds(page):
    text = (record.ROOT / page).read_text()
    assert record.PASSAGE.search(text), page
    assert record.with_passages(text, record.recorded()) == text, (
        f"{page} is stale: run `python scripts/gpu/record.py`"
    )


def test_that_something_was_not_measured_is_said_by_the_record_alone():
    """The pages exclude docs/log.md, whose entries have dates."""
    pages = [record.ROOT / "README.md", record.ROOT / "CHANGELOG.md"]
    pages += [path for path in (record.ROOT / "docs").glob("*.md") if path.name != "log.md"]
    for path in pages:
        text = record.PASSAGE.sub("", path.read_text()).replace("\n", " ")
        assert not UNMEASURED.search(text), path


def test_the_record_of_cards_follows_from_the_results():
    held = json.loads(record.RECORD.read_text())["cards"]
    expected = {name: record.verified(results) for name, results in record.recorded().items()}
    assert {name: card["features"] for name, card in held.items()} == expected
