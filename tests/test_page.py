"""The page of a run in a real Chromium; skipped with a reason where there is none."""

from __future__ import annotations

import pytest

from browser import NARROW, WIDE, looked_at, opened_browser
from fake_runs import fake_run
from layerscope.render import page as page_module
from layerscope.render.scans import run_view
from layerscope.results.table import Run

SIZES = pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1280 px", "390 px"])


@pytest.fixture(scope="module")
def browser():
    with opened_browser() as found:
        yield found


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    page = tmp_path_factory.mktemp("page") / "report.html"
    page.write_text(page_module.page(run_view(Run(*fake_run()))), encoding="utf-8")
    return page


@SIZES
def test_nothing_is_wider_than_the_window(browser, path, size):
    with looked_at(browser, path, size) as look:
        look.unfold()
        assert look.too_wide() == []
        assert look.width_of_page() <= size[0]


@SIZES
def test_charts_do_not_cover_each_other(browser, path, size):
    with looked_at(browser, path, size) as look:
        assert look.charts().count() >= 1
        assert look.overlapping("figure") == []


@SIZES
def test_the_page_asks_nobody_and_complains_of_nothing(browser, path, size):
    with looked_at(browser, path, size, has_touch=size is NARROW) as look:
        look.unfold()
        look.hovered(look.charts().first)
        assert look.requests == []
        assert look.complaints == []


def test_a_request_would_be_seen(browser, tmp_path):
    """The page of a page that asks: what the test above rests on."""
    page = tmp_path / "asking.html"
    page.write_text('<img src="https://example.com/x.png"><script>console.error("oh")</script>')
    with looked_at(browser, page) as look:
        assert look.requests == ["https://example.com/x.png"]
        assert "oh" in look.complaints


def test_what_is_too_wide_would_be_seen(browser, tmp_path):
    page = tmp_path / "wide.html"
    inside = '<div style="overflow-x: auto"><div style="width: 3000px">scrolls</div></div>'
    page.write_text(f'{inside}<p style="width: 2000px">too wide</p>')
    with looked_at(browser, page) as look:
        assert [each.split()[0] for each in look.too_wide()] == ["P."]
        assert look.width_of_page() > WIDE[0]


def test_the_answer_is_seen_first(browser, path):
    with looked_at(browser, path) as look:
        box = look.page.locator("#answer").bounding_box()
        assert 0 <= box["y"] < WIDE[1] / 2


def test_a_point_says_its_value_under_the_pointer(browser, path):
    with looked_at(browser, path) as look:
        said = look.hovered(look.charts().first)
        assert any(character.isdigit() for character in said), said


def test_folded_parts_are_drawn_when_they_are_opened(browser, path):
    with looked_at(browser, path) as look:
        before = look.charts().count()
        look.unfold()
        assert look.charts().count() >= before
        assert look.page.locator(".plot:visible").count() == look.charts().count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_both_readable(browser, path, scheme):
    with looked_at(browser, path, color_scheme=scheme) as look:
        light = sum(look.background()) / 3
        assert light > 200 if scheme == "light" else light < 60
        assert look.contrast("h1") >= 7
        assert look.contrast("#answer p") >= 4.5


def test_the_theme_changes_while_the_page_is_open(browser, path):
    with looked_at(browser, path, color_scheme="light") as look:
        before = look.background()
        look.page.emulate_media(color_scheme="dark")
        assert look.background() != before


def test_it_is_printed_on_white_without_losing_a_chart(browser, path):
    with looked_at(browser, path, color_scheme="dark") as look:
        look.page.emulate_media(media="print")
        assert look.background() == (255, 255, 255)
        made = look.page.pdf(format="A4", print_background=True)
        assert made.startswith(b"%PDF-")
        assert len(made) > 20_000
        assert look.complaints == []


def test_links_within_the_page_lead_somewhere(browser, path):
    with looked_at(browser, path) as look:
        assert look.broken_links() == []


@SIZES
def test_no_text_is_too_small_to_read(browser, path, size):
    with looked_at(browser, path, size) as look:
        assert look.smallest_text() >= 9
