"""`layerscope select`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layerscope.cli.app import (
    Failures,
    app,
    calm_libraries,
    listed,
    plots_asked,
    print_json,
    print_view,
)
from layerscope.cli.help import Command
from layerscope.cli.options import Debug, Given, Json, Png, Svg, Threads, Verbose, with_settings
from layerscope.settings import ModelOptions

if TYPE_CHECKING:
    from layerscope.decisions.select import Selection

_EXAMPLE = """
Say which layer to use, without labels: by a rule, compared with every other rule and the baselines.

Example:

    layerscope select runs/my-model

    layerscope select runs/my-model --rule "least dime"

    layerscope select runs/my-model --table labels.csv --model ./my-model --data notes.csv
"""


@app.command(help=_EXAMPLE, cls=Command)
@with_settings(ModelOptions)
def select(
    run: Annotated[
        Path, typer.Argument(help="A run's folder, or a long table (.parquet or .csv).")
    ],
    rule: Annotated[
        str | None,
        typer.Option(help="Rule to follow; --verbose lists them."),
    ] = None,
    prefer: Annotated[
        str, typer.Option(help="quality, or cheap: the lowest layer within noise of the best.")
    ] = "quality",
    tasks: Annotated[
        str | None, typer.Option(help="Tasks to count gains over, comma-separated.")
    ] = None,
    convention: Annotated[
        str | None,
        typer.Option(help="paper, normalized or reference  [default: normalized if there]"),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(help="50 labelled rows or more, weighed against the choice without labels."),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="Labelled images in place of --table, as for evaluate."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The one that was scanned  [default: as the run names it]"),
    ] = None,
    data: Annotated[
        str, typer.Option(help="Texts that maps are fitted on for --table: those of the scan.")
    ] = "sample",
    verbose: Verbose = False,
    png: Png = None,
    svg: Svg = None,
    resamples: Annotated[int, typer.Option(help="Resamples of texts and of tasks.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resampling.")] = 0,
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
    *,
    settings: Given,
) -> None:
    """Say which layer to use, without labels."""
    Failures.debug = debug
    if table is not None or images is not None:
        calm_libraries(threads)
    from layerscope import api
    from layerscope.render import charts, matplotlib
    from layerscope.render import tasks as task_views

    pictures = plots_asked(png, svg)
    given = api.run_of(run)
    asked: Any = prefer  # checked there
    found = api.select(
        given,
        rule=rule,
        prefer=asked,
        tasks=None if tasks is None else listed(tasks),
        convention=convention,
        seed=seed,
        resamples=resamples,
        table=table,
        images=images,
        model=model,
        data=data,
        show_progress=not as_json,
        **settings,
    )
    for path in pictures:
        matplotlib.save(charts.chosen_scores([found]), path)
    if as_json:
        print_json(_facts(found))
        return
    print_view(task_views.selection_view(found, given.record, every=verbose), verbose=verbose)


def _facts(found: Selection) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "answer": found.answer,
        "readout": None if found.readout is None else found.readout.as_dict(),
        "labels": None if found.labels is None else found.labels.as_dict(),
        "layer": found.layer,
        "rule": found.rule,
        "sentence": found.sentence,
        "choices": [asdict(choice) for choice in found.choices],
        "gains": [asdict(gain) for gain in found.gains],
        "labeled": [asdict(gain) for gain in found.labeled],
        "lacking": dict(found.lacking),
    }
