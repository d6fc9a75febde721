"""The measures' page says what the catalogue says: `python tests/test_docs.py` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.measure import INVARIANCES, Measure

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "measures.md"
LEVELS = {
    "prompt": "the token states of each text, averaged over texts",
    "dataset": "one pooled vector a text",
    "view": "pooled vectors of views of each text",
    "pair": "the pooled vectors of the layers together",
}
PLACES = {
    "": "",
    "step": ", at each block; the row stands at the layer that it leads to",
    "layer": ", at each layer",
    "final": ", each layer against the final one",
    "matrix": ", every two layers",
    "model": ", once for the model; the row stands at layer L",
}
ENTRY = re.compile(r"^### `(\w+)`\n\n<!-- facts -->\n(.*?)<!-- end of facts -->$", re.M | re.S)


def facts(measure: Measure) -> str:
    """Return a record as the list that opens its entry."""
    lines = {
        measure.title: f"on {LEVELS[measure.level]}{PLACES[measure.place]}",
        "Formula": f"`{measure.formula}`",
        "Range": f"{measure.range} ({measure.unit})",
        "Preferred": f"{measure.direction} ({measure.direction_source})",
        "Conventions": ", ".join(measure.conventions) or "none, there is one way only",
        "Unchanged by": invariances(measure),
        "Without structure": null(measure),
        "Undefined": measure.undefined,
        "Note": measure.note,
        "Reference": measure.reference,
        "Rows of the same": ", ".join(f"`{name}`" for name in measure.variants),
    }
    return "".join(f"- **{name}**: {text}\n" for name, text in lines.items() if text)


def invariances(measure: Measure) -> str:
    """Return what leaves a measure unchanged, conventions of equal invariances together."""
    groups: dict[str, list[str]] = {}
    for convention, names in measure.invariances.items():
        ordered = ", ".join(name for name in INVARIANCES if name in names)
        groups.setdefault(ordered, []).append(convention)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{', '.join(names)}: {ordered}" for ordered, names in groups.items())


def null(measure: Measure) -> str:
    """Return the level that states without structure give."""
    if measure.null is None:
        return ""
    level = f"{measure.null.level(1000, 384):.4g}"
    return f"{level}{' for N = 1000, D = 384' * measure.null.varies}, {measure.null.label}"


def test_every_measure_has_its_entry_in_the_order_of_the_catalogue():
    found = [name for name, _ in ENTRY.findall(PAGE.read_text(encoding="utf-8"))]
    assert found == [measure.name for measure in CATALOGUE]


def test_the_page_says_what_the_catalogue_says():
    written = dict(ENTRY.findall(PAGE.read_text(encoding="utf-8")))
    for measure in CATALOGUE:
        assert written[measure.name] == facts(measure), "run: python tests/test_docs.py"


def test_links_between_pages_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def write() -> None:
    """Write the facts of every entry anew; the entries themselves are written by hand."""
    records = {measure.name: measure for measure in CATALOGUE}

    def entry(match: re.Match[str]) -> str:
        name = match[1]
        return f"### `{name}`\n\n<!-- facts -->\n{facts(records[name])}<!-- end of facts -->"

    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(ENTRY.sub(entry, page), encoding="utf-8")


if __name__ == "__main__":
    write()
