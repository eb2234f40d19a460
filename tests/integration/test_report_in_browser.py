"""The report in a real browser: it plays, logs no error, sends no request, runs no name."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_report import HOSTILE

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
    """A page opened from the disk, with everything that it said and asked for."""

    def __init__(self, browser, file: Path, **settings):
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.resolve().as_uri())


@pytest.fixture
def visit(browser, hostile_run) -> Iterator:
    visits: list[Visit] = []

    def open_page(**settings) -> Visit:
        visits.append(Visit(browser, write_report(hostile_run), **settings))
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
        page.wait_for_function("film => film.currentTime > 0.05", arg=film.element_handle())
        assert film.evaluate("film => film.error") is None
        assert film.evaluate("film => film.videoWidth") > 0


def test_a_reader_can_pause_and_motion_is_off_for_those_who_want_little(visit):
    page = visit(reduced_motion="reduce").page
    page.locator("video").first.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    assert page.locator("video").first.evaluate("film => film.paused")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("!document.querySelector('video').paused")
    page.get_by_role("button", name="Pause").click()
    page.wait_for_function("document.querySelector('video').paused")


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
    opened.page.wait_for_function("window.answer === 'refused'")
    assert any("Content Security Policy" in line for line in opened.said)


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_sticks_out_at_any_width(visit, width):
    page = visit(viewport={"width": width, "height": 800}, color_scheme="dark").page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(20, 23, 26)"
