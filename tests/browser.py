"""A real Chromium looks at a page: what it draws, asks for and complains of.

Nothing leaves the machine: every request but that for the page itself is blocked and written down.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

WIDE, NARROW = (1280, 900), (390, 844)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Without a screen, a driver or a network, and without Chromium's own calls home.
SWITCHES = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
]  # fmt: skip


def chromium() -> str:
    """Return the path of an installed Chromium; skips the test where there is none."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("Chromium is not installed: apt-get install chromium, or set CHROMIUM")
    return found


@contextmanager
def opened_browser() -> Iterator[Any]:
    """Start Chromium; skips the test where it or playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make test")
    path = chromium()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=SWITCHES)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Look:
    """A page in a browser's window.

    Attributes:
        page: playwright's page.
        requests: addresses that it asked for, the page's own left out; all were blocked.
        complaints: errors and warnings of the console, and exceptions.
    """

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    # --- layout ------------------------------------------------------------------------------------

    def width_of_page(self) -> int:
        """Return how wide the whole page is; more than the window means that it scrolls sideways."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def height_of_page(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollHeight"))

    def too_wide(self) -> list[str]:
        """Return the elements that stick out of the window, but for those in a part that scrolls."""
        return list(self.page.evaluate(TOO_WIDE))

    def overlapping(self, selector: str) -> list[str]:
        """Return pairs of elements, of those that are seen, that cover each other."""
        return list(self.page.evaluate(OVERLAPPING, selector))

    def smallest_text(self) -> float:
        """Return the smallest size of text that is seen, in CSS pixels."""
        return float(self.page.evaluate(SMALLEST_TEXT))

    # --- charts ------------------------------------------------------------------------------------

    def charts(self) -> Any:
        """Return the charts that are drawn and seen."""
        return self.page.locator(".js-plotly-plot:visible")

    def unfold(self) -> None:
        """Open every folded part, and wait for the charts in it."""
        self.page.evaluate(
            "document.querySelectorAll('details').forEach((each) => each.open = true)"
        )
        self.page.wait_for_function(ALL_DRAWN)

    def hovered(self, chart: Any) -> str:
        """Return the words of the label that a point of a chart shows under the pointer."""
        chart.scroll_into_view_if_needed()
        x, y = chart.evaluate(A_POINT)
        self.page.mouse.move(x + 40, y + 40)
        self.page.mouse.move(x, y, steps=4)
        label = chart.locator(".hoverlayer text").first
        label.wait_for(state="attached", timeout=5000)
        return " ".join(chart.locator(".hoverlayer text").all_text_contents())

    # --- parts of the page -------------------------------------------------------------------------

    def broken_links(self) -> list[str]:
        """Return links of the page to a place of its own that is not there."""
        return list(self.page.evaluate(BROKEN_LINKS))

    def follow(self, link: Any) -> float:
        """Click a link to a place of the page, and return how far below the window's top it ends."""
        target = link.get_attribute("href").removeprefix("#")
        link.click()
        self.page.wait_for_timeout(100)
        place = f"document.getElementById({target!r}).getBoundingClientRect().top"
        return float(self.page.evaluate(place))

    def download(self, button: Any, folder: Path) -> Path:
        """Click what downloads a file, and return the file."""
        with self.page.expect_download() as waiting:
            button.click()
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path

    def background(self) -> tuple[int, ...]:
        """Return red, green and blue of the page's background."""
        found = self.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return tuple(int(part) for part in found[found.index("(") + 1 : -1].split(",")[:3])

    def contrast(self, selector: str) -> float:
        """Return the contrast of an element's text on the page's or its card's background (1 to 21)."""
        return float(self.page.evaluate(CONTRAST, selector))


@contextmanager
def looked_at(
    browser: Any, path: Path, size: tuple[int, int] = WIDE, **context: Any
) -> Iterator[Look]:
    """Open a page in a new window, as a person who has never been there.

    Args:
        browser: a running one.
        path: of the page.
        size: of the window, width and height in CSS pixels.
        context: of playwright's `new_context`, such as `color_scheme`, `has_touch`.
    """
    width, height = size
    place = browser.new_context(
        viewport={"width": width, "height": height}, accept_downloads=True, **context
    )
    page = place.new_page()
    look, own = Look(page), path.resolve().as_uri()

    def answer(route: Any) -> None:
        address = route.request.url
        if address.split("#")[0] == own:
            route.continue_()
            return
        look.requests.append(address)
        route.abort()

    def hear(message: Any) -> None:
        if message.type in ("error", "warning"):
            look.complaints.append(message.text)

    place.route("**/*", answer)
    page.on("console", hear)
    page.on("pageerror", lambda error: look.complaints.append(str(error)))
    page.goto(own)
    page.wait_for_function(ALL_DRAWN)
    try:
        yield look
    finally:
        place.close()


# Every panel that is seen has its drawing; those in folded parts wait for their turn.
ALL_DRAWN = """() => [...document.querySelectorAll('.plot')].every(
  (plot) => !plot.offsetParent || plot.querySelector('.main-svg'))"""
TOO_WIDE = """() => {
  const scrolls = (each) => ['auto', 'scroll', 'hidden'].includes(getComputedStyle(each).overflowX);
  const inside = (each) => {
    for (let one = each.parentElement; one; one = one.parentElement)
      if (one !== document.documentElement && one !== document.body && scrolls(one)) return true;
    return false;
  };
  const width = document.documentElement.clientWidth, found = [];
  for (const each of document.body.querySelectorAll('*')) {
    const box = each.getBoundingClientRect();
    const sticksOut = box.right > width + 1 || (box.left < -1 && box.right > 0);
    if (!box.width || !sticksOut) continue;
    if (each.closest('svg') && each.tagName !== 'svg') continue;
    if (!inside(each)) found.push(`${each.tagName}.${each.className} ${box.left}..${box.right}`);
  }
  return found;
}"""
OVERLAPPING = """(selector) => {
  const seen = [...document.querySelectorAll(selector)].filter((each) => each.offsetParent);
  const boxes = seen.map((each) => each.getBoundingClientRect()), found = [];
  for (let a = 0; a < boxes.length; a++) for (let b = a + 1; b < boxes.length; b++) {
    const one = boxes[a], other = boxes[b];
    const wide = Math.min(one.right, other.right) - Math.max(one.left, other.left);
    const high = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
    if (wide > 1 && high > 1 && !seen[a].contains(seen[b]) && !seen[b].contains(seen[a]))
      found.push(`${a} and ${b} of ${selector}`);
  }
  return found;
}"""
SMALLEST_TEXT = """() => {
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let smallest = 100;
  while (walk.nextNode()) {
    const parent = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || ['SCRIPT', 'STYLE'].includes(parent.tagName)) continue;
    const box = parent.getBoundingClientRect();
    if (box.width && box.height)
      smallest = Math.min(smallest, parseFloat(getComputedStyle(parent).fontSize));
  }
  return smallest;
}"""
# The place in the window of the middle point of a chart's first line.
A_POINT = """(plot) => {
  const drawn = plot._fullData.findIndex((one) => one.visible === true && (one.x || one.z));
  const one = plot._fullData[drawn], box = plot.getBoundingClientRect();
  const across = plot._fullLayout[(one.xaxis || 'x').replace('x', 'xaxis')];
  const down = plot._fullLayout[(one.yaxis || 'y').replace('y', 'yaxis')];
  const middle = (list) => Math.floor(list.length / 2);
  const matrix = one.type === 'heatmap';
  const place = middle(matrix ? one.z : one.x);
  const columns = matrix && (one.x || [...one.z[0].keys()]);
  const x = across.d2p(matrix ? columns[middle(one.z[0])] : one.x[place]);
  const y = down.d2p(matrix && !one.y ? place : one.y[place]);
  return [box.left + across._offset + x, box.top + down._offset + y];
}"""
BROKEN_LINKS = """() => [...document.querySelectorAll('a[href^="#"]')]
  .map((each) => each.getAttribute('href'))
  .filter((href) => href.length > 1 && !document.getElementById(decodeURIComponent(href.slice(1))))"""
CONTRAST = """(selector) => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
    .map((part) => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [.2126, .7152, .0722][at], 0);
  const element = document.querySelector(selector);
  const clear = (one) => parse(getComputedStyle(one).backgroundColor)[3] === 0;
  let behind = element;
  while (behind && clear(behind)) behind = behind.parentElement;
  const ink = light(parse(getComputedStyle(element).color));
  const paper = light(parse(getComputedStyle(behind || document.body).backgroundColor));
  return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
}"""
