import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from fake_runs import fake_run
from layerscope.render import page as page_module
from layerscope.render.glossary import TERMS
from layerscope.render.scans import run_view
from layerscope.render.words import plain
from layerscope.results.table import Run

HOSTILE = '</script><script>document.title="taken"</script><img src=https://example.com/x>'


@pytest.fixture(scope="module")
def run():
    return fake_run()


@pytest.fixture(scope="module")
def html(run):
    return drawn(run)


def drawn(run):
    return page_module.page(run_view(Run(*run)))


def without_library(text):
    return text.replace(page_module.library(), "")


def drawings(text):
    found = re.search(r'<script id="panels" type="application/json">(.*?)</script>', text, re.S)
    return json.loads(found.group(1))


def test_the_page_forbids_every_request_and_refers_to_nothing(html):
    assert "default-src 'none'" in html
    own = without_library(html)
    assert not re.search(r"src=", own)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', own))
    assert "http" not in own.replace('http-equiv="Content', "")
    assert "url(" not in own


def test_the_toolbar_has_no_upload(html):
    own = without_library(html)
    assert "sendChartToCloud" not in own
    assert 'modeBarButtons: [["toImage", "pan2d", "zoom2d", "resetScale2d"]]' in own
    assert "showSendToCloud: false" in own


def test_the_library_is_written_once_and_keeps_its_license(run):
    html = drawn(run)
    assert html.count("plotly.js (cartesian - minified)") == 1
    assert "Licensed under the MIT license" in html
    assert len(html) < 2.5e6


def test_every_panel_has_a_place_and_no_value_is_nan(html):
    panels = drawings(html)
    assert len(panels) >= 8
    for panel in panels:
        assert f'id="{panel["id"]}"' in html
        assert panel["data"]


def test_what_a_reader_needs_is_there(html):
    for words in (
        "example/decoder-30m on letters.txt",
        "every step between tokens is zero",
        "barely changed by the augmentation",
        "sha256:5f1c0a9e7d",
        "30,412,800",
        "200 texts of letters.txt, 51,230 tokens",
        "transformers",
        "final norm",
        "prefers-color-scheme",
        "@media print",
    ):
        assert words in html.replace("&#39;", "'"), words


def test_foreign_words_are_escaped_everywhere():
    table, contributions, record = fake_run(model=HOSTILE)
    table["data"] = HOSTILE
    record["notes"] = [HOSTILE]
    record["data"]["name"] = HOSTILE
    record[HOSTILE] = {HOSTILE: HOSTILE}
    record["undefined"][0]["reason"] = HOSTILE
    run = (table, contributions, record)
    for text in (drawn(run), drawn((table.assign(model=HOSTILE), contributions, {}))):
        assert HOSTILE not in text
        assert "<img" not in without_library(text)
        assert text.count("</script>") == 4
        assert all("<" not in trace["name"] for panel in drawings(text) for trace in panel["data"])


@pytest.mark.parametrize("record", [{}, {"model": {"name": "x"}}, {"undefined": [{}], "notes": []}])
def test_missing_parts_of_the_record_are_left_out(run, record):
    table, contributions, _ = run
    assert "Layer" in drawn((table, contributions, record))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "not set"),
        (True, "yes"),
        (7, "7"),
        (30_412_800, "30,412,800"),
        (1e-4, "0.0001"),
        (["a", 1], "a, 1"),
        ([], "none"),
        ({"first_token": "kept"}, "first token kept"),
        ("é", "é"),
    ],
)
def test_a_records_values_in_words(value, words):
    assert plain(value) == words


def test_a_browser_draws_every_panel_without_errors(html, tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium to draw the page")
    page = tmp_path / "page.html"
    page.write_text(html, encoding="utf-8")
    shown = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'user'}", "--virtual-time-budget=8000", "--dump-dom",
         page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert shown.stdout.count('class="main-svg"') >= len(drawings(html))
    titles = set(re.findall(r'data-title="([^"]*)"', shown.stdout))
    assert titles
    assert not any("loud" in title or "hare" in title for title in titles)
    assert "Uncaught" not in shown.stderr
    assert "Content Security Policy" not in shown.stderr


def test_contents_lead_to_every_section(html):
    links = re.findall(r'<a href="#([^"]+)">([^<]+)</a>', html)
    assert len(links) >= 7
    for name, title in links:
        assert html.count(f'<section id="{name}">') == 1
        assert title in html[html.index(f'<section id="{name}">') :]
    folded = re.findall(r"<details><summary>([^<]+)<", html)
    assert {"Which layer each measure prefers", "How it was made"} <= set(folded)


def test_a_measure_has_one_chart_and_the_legend_switches_conventions(html):
    panels = drawings(html)
    named = [(panel["id"], trace["legendgroup"]) for panel in panels for trace in panel["data"]
             if "legendgroup" in trace]  # fmt: skip
    both = {place for place, name in named if name == "paper"} & {
        place for place, name in named if name == "normalized"
    }
    assert len(both) >= 4, "conventions share a chart"
    assert json.loads(re.search(r'<script id="hidden".*?>(.*?)<', html).group(1)) == [
        "paper",
        "reference",
    ]
    assert 'data-line="normalized"' in html
    assert 'data-line="paper"' in html


def test_levels_stand_above_a_chart_and_cover_no_curve(html):
    panels = drawings(html)
    assert not any(panel["layout"].get("annotations") for panel in panels)
    assert "independent tokens" in html
    assert all(panel["layout"]["margin"]["t"] >= 28 for panel in panels), "room for the toolbar"


def test_words_are_explained_where_they_stand(html):
    meaning = TERMS["convention"].replace("'", "&#39;")
    assert f'<dfn title="{meaning}">convention</dfn>' in html


def test_the_docs_explain_the_same_words():
    text = " ".join(Path("docs/glossary.md").read_text().split())
    for term, meaning in TERMS.items():
        assert f"**{term}**" in text, term
        assert meaning in text, term


def test_measures_on_parts_of_texts_have_a_section_of_their_own(run, html):
    table, contributions, record = run
    crops = "crops of 20 words"
    parts = [
        pd.concat([frame, frame[frame["metric"] == "lidar"].assign(perturbation=crops)])
        for frame in (table, contributions)
    ]
    both = drawn((*parts, record))
    heading = "On parts of texts: same topic, other words"
    assert heading in both
    assert heading not in html
    section = both[both.index(f"<summary>{heading}") :]
    panel = section.index("LiDAR on crops of 20 words")
    assert panel < section.index("Which layer each measure prefers")
    assert len(drawings(both)) > len(drawings(html))
    assert re.search(r"<td[^>]*>crops of 20 words</td>", both), "the preferences say on which views"
    assert re.search(r"most on crops of 20 words</small>", both), "and so do the values"
