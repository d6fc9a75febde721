"""Views of what a command would take, as `--dry-run` prints them."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.analysis.run import Estimates
from layerscope.evaluation.estimates import EvaluationEstimates
from layerscope.export.cut import CutEstimates
from layerscope.render.view import (
    NONE,
    Cell,
    Facts,
    Notes,
    Table,
    View,
    heads,
    section,
    sections,
)
from layerscope.render.words import duration, size
from layerscope.results.display import in_words_of


def _facts(found: Estimates) -> Facts:
    return Facts(
        (
            ("texts", f"{found.texts:,}"),
            ("forward passes, views included", f"{found.forward_passes:,}"),
            ("tokens", f"{found.tokens:,}"),
            ("layers and stages", f"{found.sites:,}"),
            ("time of the pass, about", duration(found.pass_seconds)),
            ("memory", size(found.memory_bytes)),
            ("disk while it runs", size(found.disk_bytes)),
        ),
        # Their time is not known before the pass.
        notes=("The measures of views and of several layers take their time after it.",),
    )


def scan_view(found: Estimates) -> View:
    """Return what a scan would take."""
    return _worded(found, View("", sections(section("", _facts(found)))))


def _worded(found: Estimates | EvaluationEstimates, view: View) -> View:
    return in_words_of({"data": {"kind": found.kind}}, view)


def evaluation_view(found: EvaluationEstimates) -> View:
    """Return what an evaluation would take."""
    facts = (
        ("tasks", f"{found.tasks:,}"),
        ("layers", f"{found.sites:,}"),
        ("distinct texts", f"{found.texts:,}"),
        ("of them not in the bank yet", f"{found.forward_passes:,}"),
        ("their tokens", f"{found.tokens:,}"),
        ("time of the pass, about", duration(found.pass_seconds)),
        ("time of mteb's scoring, about", duration(found.score_seconds)),
        ("memory", size(found.memory_bytes)),
        ("disk, for the bank", size(found.disk_bytes)),
    )
    failing = tuple(f"! {task} would fail: {why}" for task, why in found.failing.items())
    return _worded(found, View("", sections(section("", Facts(facts), Notes(failing, "bad")))))


def cut_view(found: CutEstimates) -> View:
    """Return what a cut would take."""
    known = found.layer is not None
    facts = (
        ("layer", f"{found.layer} of {found.of}" if known else "chosen by the scan"),
        ("weights to write", f"{'' if known else 'at most '}{size(found.weight_bytes)}"),
        ("free there", size(found.free_bytes)),
    )
    scan = None if found.scan is None else _facts(found.scan)
    view = View("", sections(section("", Facts(facts)), section("The scan that chooses it:", scan)))
    return view if found.scan is None else _worded(found.scan, view)


def pruning_view(
    facts: Sequence[tuple[str, str]], weights: int, free: int | None, scan: Estimates | None
) -> View:
    """Return what a pruning would take.

    Args:
        facts: labels and values.
        weights: bytes that are written at most.
        free: bytes that are free there; None where nothing is saved.
        scan: what one scan that chooses the blocks would take, if there has to be one.
    """
    saved = [("weights to write", f"at most {size(weights)}"), ("free there", size(free or 0))]
    whole = Facts((*facts, *(saved if free is not None else ())))
    chosen = None if scan is None else _facts(scan)
    view = View("", sections(section("", whole), section("A scan that chooses them:", chosen)))
    return view if scan is None else _worded(scan, view)


def ranking_view(found: Sequence[tuple[str, Estimates | None]]) -> View:
    """Return what the scans of a ranking would take; None stands for a model scanned already."""
    lines = tuple(
        (Cell(model), Cell("scanned already"), *(Cell() for _ in range(4)))
        if each is None
        else (
            Cell(model),
            Cell(f"{each.texts:,}"),
            Cell(f"{each.tokens:,}"),
            Cell(duration(each.pass_seconds)),
            Cell(size(each.memory_bytes)),
            Cell(size(each.disk_bytes)),
        )
        for model, each in found
    )
    total = sum(each.pass_seconds for _, each in found if each is not None)
    named = heads("model", "texts", "tokens", "pass, about", "memory", "disk")
    note = f"All passes: about {duration(total)}."
    view = View("", sections(section("", Table(named, lines, notes=(note,)))))
    first = next((each for _, each in found if each is not None), None)
    return view if first is None else _worded(first, view)


def study_view(
    cells: tuple[int, int],
    models: Sequence[tuple[str, int, float | None, int, str]],
    whole: tuple[float, int, int],
    workers: int,
) -> View:
    """Return what a study would take.

    Args:
        cells: all, and those that are finished.
        models: name, cells, seconds in one worker, bytes of memory, and why it cannot be estimated.
        whole: seconds, bytes of memory and of disk with all workers at work.
        workers: how many run at once.
    """
    facts = Facts(
        (
            ("cells", f"{cells[0]:,}"),
            ("of them finished already", f"{cells[1]:,}"),
            ("workers", f"{workers:,}"),
            ("time of the rest, about", duration(whole[0])),
            ("memory, about", size(whole[1])),
            ("disk while it runs, about", size(whole[2])),
        ),
        notes=(
            "An estimate from one cell of each model: others may have more or longer texts, and the "
            "measures of views and of several layers take their time besides.",
        ),
    )
    lines = tuple(
        (Cell(name), Cell(f"{count:,}"), Cell(NONE if seconds is None else duration(seconds)),
         Cell(size(memory)))
        for name, count, seconds, memory, _ in models
    )  # fmt: skip
    failing = tuple(f"! {name}: {reason}" for name, *_, reason in models if reason)
    table = Table(heads("model", "cells", "time in one worker", "memory"), lines)
    return View("", sections(section("", facts, table, Notes(failing, "bad"))))
