"""`layerscope study`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layerscope.cli.app import Failures, app, calm_libraries, print_json, print_view
from layerscope.cli.help import Command
from layerscope.cli.options import Debug, DryRun, Given, Json, Quiet, with_settings
from layerscope.settings import EngineConfig

if TYPE_CHECKING:
    from layerscope.studies.study import Study, StudyEstimates

_EXAMPLE = """
Run a declared grid of scans or evaluations, cell by cell; run it again to go on where it stopped.

Example:

    layerscope study study.yaml --dry-run

    layerscope study study.yaml --out runs/study --workers 4

    layerscope study study.yaml --out runs/part-2 --shard 2/8
"""


@app.command(help=_EXAMPLE, cls=Command)
@with_settings(EngineConfig)
def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="The study: a YAML file.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the study  [default: runs/NAME]")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Run finished cells again.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    *,
    settings: Given,
) -> None:
    """Run a declared grid of scans or evaluations."""
    Failures.debug = debug
    from layerscope.render.progress import bars

    with nullcontext() if quiet or as_json else bars() as progress:
        if progress:
            progress("starting", 0, 1)
        calm_libraries(None)
        from layerscope.studies import study as studies

        plan = studies.study.plan(
            file, out=out, overwrite=overwrite, show_progress=progress or False, **settings
        )
        Failures.folder = plan.place.path  # type: ignore[attr-defined]
        if progress:
            progress("starting", 1, 1)
        found = plan.estimate() if dry_run else plan.run()
    if isinstance(found, studies.StudyEstimates):
        _print_estimate(found, as_json)
    else:
        print_study(found, as_json, quiet=quiet)


def _print_estimate(found: StudyEstimates, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found) | {"seconds": found.seconds})
        return
    from layerscope.render import estimates

    models = [
        (each.model, each.cells, each.seconds, each.memory_bytes, each.reason)
        for each in found.models
    ]
    whole = (found.seconds, found.memory_bytes, found.disk_bytes)
    cells = (found.cells, found.finished)
    print_view(estimates.study_view(cells, models, whole, found.workers))


def print_study(found: Study, as_json: bool, *, quiet: bool = False) -> None:
    """Print what came of a study; exit with 1 where a cell failed."""
    from layerscope.render import studies
    from layerscope.studies.reports import REPORTS

    failures = [(each.cell, each.reason) for each in found.failures]
    if as_json:
        counts = {"cells": found.cells, "finished": len(found.runs)}
        print_json(
            {"folder": str(found.folder), **counts, "failures": list(map(asdict, found.failures))}
        )
    elif not quiet or failures:
        tables = {
            name: frame[[each for each in REPORTS[name].shown if each in frame]]
            for name, frame in found.tables.items()
        }
        view = studies.study_view(*_answer(found), failures, found.note, tables)
        print_view(view)
    if failures:
        raise SystemExit(1)


def _answer(found: Study) -> tuple[str, str]:
    """Return how far the study is and the next step."""
    lead = f"{len(found.runs):,} of {found.cells:,} cells are finished"
    if found.failures:
        lead += f", {len(found.failures):,} failed"
        return lead, "Run the same command again to try them anew; the rest is kept."
    if len(found.runs) < found.cells:
        return lead, "Run the other shards, then layerscope merge."
    drawn = (
        "To draw it"
        if found.note
        else f"Drawn in {found.folder / 'figure.svg'}. To draw it otherwise"
    )
    return lead, f"{drawn}: layerscope plot {found.folder} --by model --out figure.svg"
