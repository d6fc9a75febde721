"""What the catalogue knows: every measure on a line, or one measure in full."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.measure import Measure
from layerscope.render.view import NONE, Cell, Facts, Head, Section, Table, View, heads


def catalogue_view(measures: Sequence[Measure] = CATALOGUE) -> View:
    """Return one line a measure: its name, what it is, its level, which values are preferred."""
    lines = tuple(
        (
            Cell(measure.name, "strong"),
            Cell(measure.title),
            Cell(measure.level),
            Cell(str(measure.direction)),
            Cell(" ".join(str(name)[:1] for name in measure.conventions) or NONE),
        )
        for measure in measures
    )
    note = "conv.: p paper, n normalized, r reference. Formula and source: layerscope metrics NAME"
    made = (
        Head("name", left=True),
        Head("measure", left=True, fills=True),
        *heads("level", "prefers", "conv.", left=(0, 1, 2)),
    )
    return View("", (Section("", (Table(made, lines, notes=(note,)),)),))


def measure_view(measure: Measure) -> View:
    """Return everything the catalogue knows about one measure."""
    null = measure.null
    level = "" if null is None else null.label
    if null is not None and not null.varies:
        level = f"{null.level(0, 0):.4g}: {level}"
    facts = {
        "level": measure.level,
        "formula": measure.formula,
        "unit": measure.unit,
        "range": measure.range,
        "prefers": f"{measure.direction} ({measure.direction_source})",
        "conventions": ", ".join(measure.conventions) or "one way only",
        "no structure": level,
        "undefined": measure.undefined,
        "note": measure.note,
        "reference": measure.reference,
    }
    rows = tuple((label, str(words_ or NONE)) for label, words_ in facts.items())
    return View(measure.name, (Section("", (Facts(rows),)),), lines=(measure.title,))
