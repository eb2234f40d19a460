"""Tests of reports and views in a browser: they play, log no errors and send no requests."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile_report import HOSTILE, make_hostile_run
from runs import make_clip_store

from video_vq.cli import main
from video_vq.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a browser: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-background-networking", "--disable-quic"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


class Visit:
    """A page opened from a file, with all its console messages, errors and requests."""

    def __init__(self, browser, file: Path, **settings):
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.resolve().as_uri())


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; Playwright's own waiting uses eval, which the pages forbid."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Return the report of a run in which every name is an attack."""
    return write_report(make_hostile_run(tmp_path_factory.mktemp("hostile")))


@pytest.fixture
def visit(browser, report) -> Iterator:
    visits: list[Visit] = []

    def open_page(file: Path = report, **settings) -> Visit:
        visits.append(Visit(browser, file, **settings))
        return visits[-1]

    yield open_page
    for each in visits:
        each.context.close()


def test_every_film_plays(visit):
    page = visit(viewport={"width": 1280, "height": 900}).page
    films = page.locator("video")
    # 8 shown, 4 best, 4 worst, 12 classes, one control, one neighbour.
    assert films.count() == 8 + 4 + 4 + 12 + 1 + 1
    for number in range(films.count()):
        film = films.nth(number)
        film.scroll_into_view_if_needed()
        wait_until(lambda film=film: film.evaluate("film => film.currentTime > 0.05"))
        assert film.evaluate("film => film.error") is None
        assert film.evaluate("film => film.videoWidth") > 0


def test_a_reader_can_pause_and_motion_is_off_for_those_who_want_little(visit):
    page = visit(reduced_motion="reduce").page
    page.locator("video").first.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    assert page.locator("video").first.evaluate("film => film.paused")
    page.get_by_role("button", name="Play").click()
    wait_until(lambda: page.evaluate("!document.querySelector('video').paused"))
    page.get_by_role("button", name="Pause").click()
    wait_until(lambda: page.evaluate("document.querySelector('video').paused"))


def test_nothing_is_said_asked_or_run(visit):
    opened = visit()
    page = opened.page
    page.wait_for_timeout(300)
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith(("data:", "file:"))] == []
    assert [url for url in opened.asked if url.startswith("file:")] == opened.asked[:1]
    assert page.evaluate("window.broken") is None
    text = page.locator("body").text_content()
    # Line breaks inside a name are shown as spaces.
    missing = [name for name in HOSTILE if name not in text]
    assert missing == []
    for tag in ("iframe", "img", "math", "a[href^=javascript]", "[onerror]", "[onload]"):
        assert page.locator(tag).count() == 0, tag
    assert page.locator("script").count() == 1


def test_the_page_could_not_reach_a_network_if_it_tried(visit):
    opened = visit()
    opened.page.evaluate(
        "() => fetch('http://127.0.0.1:9/').then(() => 'reached', () => 'refused')"
        ".then(answer => { window.answer = answer; })"
    )
    wait_until(lambda: opened.page.evaluate("window.answer === 'refused'"))
    assert any("Content Security Policy" in line for line in opened.said)


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_sticks_out_at_any_width(visit, width):
    page = visit(viewport={"width": width, "height": 800}, color_scheme="dark").page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(20, 23, 26)"


def test_a_loop_lasts_a_second_at_least_and_the_speed_can_be_chosen(visit):
    page = visit(viewport={"width": 1280, "height": 900}).page
    film = page.locator("video").first
    wait_until(lambda: page.evaluate("document.querySelector('video').duration > 0"))
    length = film.evaluate("film => film.duration")
    assert film.evaluate("film => film.playbackRate") == pytest.approx(min(1, length))
    page.get_by_label("Speed").select_option("0.5")
    assert film.evaluate("film => film.playbackRate") == pytest.approx(min(1, length) / 2)
    film.evaluate("film => Object.defineProperty(film, 'duration', {value: 0.1})")
    page.get_by_label("Speed").select_option("1")
    assert film.evaluate("film => film.playbackRate") == pytest.approx(0.1)


def test_a_chart_shows_its_values_under_the_pointer_and_to_the_arrow_keys(visit):
    page = visit(viewport={"width": 1280, "height": 900}).page
    chart = page.get_by_role("img", name="x loss")  # its values are 1 / step, of steps 1 to 29
    values = page.locator("#values")
    chart.scroll_into_view_if_needed()
    assert values.is_hidden()
    box = chart.bounding_box()
    assert box is not None
    chart.hover(position={"x": box["width"] - 12, "y": box["height"] / 2})
    assert values.inner_text().split() == ["step", "29", "0.0345"]
    chart.hover(position={"x": 2, "y": box["height"] / 2})
    assert values.inner_text().split() == ["step", "1", "1"]
    page.mouse.move(0, 0)
    assert values.is_hidden()
    chart.focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert values.inner_text().split() == ["step", "2", "0.5"]


@pytest.mark.parametrize("width", [390, 1280])
def test_pause_and_speed_cover_no_clip_that_stands_at_the_top(visit, width):
    page = visit(viewport={"width": width, "height": 844}).page
    page.evaluate("document.querySelector('section').scrollIntoView({behavior: 'instant'})")
    bar = page.locator("#player").bounding_box()
    assert bar is not None
    assert bar["y"] == pytest.approx(0, abs=1)
    assert bar["height"] < 64
    heading = page.locator("h2").first.bounding_box()
    assert heading is not None
    assert heading["y"] >= bar["y"] + bar["height"]


def test_a_page_on_a_phone_is_short_and_its_commands_break_at_spaces(visit, report):
    opened = visit(viewport={"width": 390, "height": 844})
    tall = opened.page.evaluate("document.documentElement.scrollHeight")
    assert tall < 10_000
    words = opened.page.locator("code span").evaluate_all(
        "words => words.filter(word => word.getClientRects().length > 1).map(w => w.textContent)"
    )
    assert words == []


def test_a_view_of_a_store_plays_says_nothing_and_asks_nothing(visit, tmp_path):
    make_clip_store(tmp_path / "clips", num_videos=6)
    out = tmp_path / "page.html"
    assert main(["view", str(tmp_path / "clips"), "--out", str(out), "--no-open"]) == 0
    opened = visit(out, viewport={"width": 390, "height": 844}, color_scheme="dark")
    wait_until(lambda: opened.page.evaluate("document.querySelector('video').currentTime > 0.05"))
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == opened.asked[:1]
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
