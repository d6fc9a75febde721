"""`layerscope correlate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layerscope.cli.app import (
    Failures,
    app,
    check_choice,
    check_page,
    listed,
    plots_asked,
    print_json,
    print_view,
    records,
    write_page,
)
from layerscope.cli.help import Command
from layerscope.cli.options import Debug, Json, Png, Svg, Verbose

if TYPE_CHECKING:
    from layerscope.api.correlating import Correlations

_EXAMPLE = """
Say which measures go with task scores over the layers, how sure that is, and what drift alone would give.

Example:

    layerscope correlate runs/minilm runs/gemma runs/smollm2

    layerscope correlate runs/minilm--wiki runs/minilm--tasks --tasks STSBenchmark --svg matrix.svg
"""


@app.command(help=_EXAMPLE, cls=Command)
def correlate(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Folders of scans and evaluations, or long tables (.parquet, .csv).",
        ),
    ],
    tasks: Annotated[
        str | None, typer.Option(help="Tasks, comma-separated  [default: all]")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Measures, comma-separated, or all  [default: the main ones]")
    ] = None,
    convention: Annotated[
        str | None, typer.Option(help="paper, normalized, reference  [default: all in the runs]")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Texts whose measures to compare, or own for each task's own texts."),
    ] = None,
    stage: Annotated[
        str, typer.Option(help="block, a sub-block stage, or final_norm for the last layer.")
    ] = "block",
    plot: Annotated[
        str, typer.Option(help="What --png and --svg show: matrix, scatter.")
    ] = "matrix",
    statistic: Annotated[
        str, typer.Option(help="Of the matrix: dcor, bias_corrected, spearman, kendall, partial.")
    ] = "dcor",
    png: Png = None,
    svg: Svg = None,
    out: Annotated[Path | None, typer.Option(help="Write all of it to an .html page.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the page in --out.")
    ] = False,
    resamples: Annotated[int, typer.Option(help="Draws behind limits and p values.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    as_json: Json = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Say which measures go with task scores over the layers."""
    Failures.debug = debug
    check_choice("plot", plot, ("matrix", "scatter"))
    pictures = plots_asked(png, svg)
    check_page(out, overwrite)
    from layerscope import api
    from layerscope.decisions.curves import refuse_statistic

    refuse_statistic(statistic)
    found = api.correlate(
        runs,
        data=data,
        scores=None if tasks is None else listed(tasks),
        measures=None if metrics is None else listed(metrics),
        conventions=None if convention is None else listed(convention),
        stage=stage,
        resamples=resamples,
        seed=seed,
    )
    _print(found, as_json=as_json, verbose=verbose)
    for path in pictures:
        found.save_plot(path, plot, statistic)  # type: ignore[arg-type]
    if out is not None:
        write_page(out, found.page(), said=not as_json)


def _print(found: Correlations, *, as_json: bool, verbose: bool) -> None:
    from layerscope.render import correlations

    if not as_json:
        print_view(correlations.correlation_view(found.findings), verbose=verbose)
        return
    whole: dict[str, Any] = {
        "measures": records(found.table()),
        "units": records(found.units()),
        "left_out": [asdict(each) for each in found.findings.left_out],
        "notes": list(found.notes),
    }
    print_json(whole)
