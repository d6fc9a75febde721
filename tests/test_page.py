"""The page of a run in a real Chromium; skipped with a reason where there is none."""

from __future__ import annotations

import pandas as pd
import pytest

import layerscope
from browser import NARROW, WIDE, looked_at, opened_browser
from fake_runs import fake_run
from layerscope.render import page as page_module
from layerscope.render.scans import run_view
from layerscope.render.view import NONE
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
        assert look.smallest_text() >= 12


def test_the_contents_stay_in_view_and_open_what_they_lead_to(browser, path):
    with looked_at(browser, path) as look:
        link = look.page.locator("nav a[href='#how-it-was-made']")
        place = look.follow(link)
        assert -2 <= place <= WIDE[1]
        assert look.page.locator("#how-it-was-made > details").get_attribute("open") is not None
        assert 0 <= look.page.locator("nav").bounding_box()["y"] < WIDE[1] / 2


def test_the_contents_are_folded_on_a_phone(browser, path):
    with looked_at(browser, path, NARROW) as look:
        assert look.page.locator("nav a").first.is_hidden()


def test_one_switch_shows_a_convention_in_all_charts(browser, path):
    shown = """() => [...document.querySelectorAll('.js-plotly-plot')].map((plot) =>
        plot.data.filter((trace) => trace.visible !== false).map((trace) => trace.legendgroup))"""
    with looked_at(browser, path) as look:
        assert not any("paper" in names for names in look.page.evaluate(shown))
        button = look.page.locator("button[data-line='paper']").first
        assert button.get_attribute("aria-pressed") == "false"
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        assert sum("paper" in names for names in look.page.evaluate(shown)) >= 3
        look.page.locator("button[data-line='normalized']").first.click()
        assert not any("normalized" in names for names in look.page.evaluate(shown))
        look.unfold()  # what is drawn later is switched too
        assert not any("normalized" in names for names in look.page.evaluate(shown))


def test_a_click_on_a_heading_sorts_numbers_as_numbers(browser, path):
    with looked_at(browser, path) as look:
        table = look.page.locator("#values-by-layer table")
        head = table.locator("th").nth(2)
        found = []
        for order in ("descending", "ascending"):
            head.click()
            assert head.get_attribute("aria-sort") == order
            texts = [
                each.split("\n")[0].strip(" ▲▼")
                for each in table.locator("tbody tr td:nth-child(3)").all_inner_texts()
            ]
            numbers = [float(each) for each in texts if each not in ("", NONE)]
            found.append(numbers)
            assert len(numbers) >= 8
        assert found[0] == sorted(found[0], reverse=True)
        assert found[1] == sorted(found[1])


def test_a_table_is_downloaded_as_csv(browser, path, tmp_path):
    with looked_at(browser, path) as look:
        button = look.page.locator("#values-by-layer .tools button")
        table = pd.read_csv(look.download(button, tmp_path))
        assert len(table) == look.page.locator("#values-by-layer tbody tr").count()
        assert str(table.columns[0]).startswith("layer")
        assert look.complaints == []


def test_a_word_explains_itself_under_the_pointer(browser, path):
    with looked_at(browser, path) as look:
        word = look.page.locator("dfn").first
        assert len(word.get_attribute("title")) > 20


def test_several_runs_are_switched_by_their_names(browser, tmp_path):
    runs = [Run(*fake_run(model=name, seed=n)) for n, name in enumerate(("org/one", "org/two"))]
    page = tmp_path / "runs.html"
    page.write_text(layerscope.concat(runs).page(), encoding="utf-8")
    with looked_at(browser, page) as look:
        assert look.page.locator("#runs tbody tr").count() == 2
        count = look.charts().count()
        assert count >= 4
        look.page.locator("button[data-line='two'], button[data-line='org/two']").first.click()
        hidden = look.page.evaluate("""() => [...document.querySelectorAll('.js-plotly-plot')].filter(
            (plot) => plot.data.some((trace) => trace.visible === false)).length""")
        assert hidden == count
        assert look.too_wide() == []
        assert look.complaints == []
