"""`layerscope evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layerscope.cli.app import (
    Failures,
    app,
    calm_libraries,
    print_json,
    print_page,
    print_view,
    records,
)
from layerscope.cli.help import Command
from layerscope.cli.options import (
    Debug,
    DryRun,
    Given,
    Images,
    Json,
    Model,
    Quiet,
    Threads,
    Verbose,
    with_settings,
)
from layerscope.settings import EvaluateConfig, ModelOptions

if TYPE_CHECKING:
    from layerscope.api.evaluating import Evaluation

_EXAMPLE = """
Score every layer of a model on tasks of mteb, from one pass over their texts.

Example:

    layerscope evaluate sentence-transformers/all-MiniLM-L6-v2 --tasks STS17,Banking77Classification

    layerscope evaluate ./my-model --table mine.csv --out runs/my-model

    layerscope evaluate facebook/dinov2-small --images photos --probe linear,knn,attention
"""


@app.command(help=_EXAMPLE, cls=Command)
@with_settings(EvaluateConfig, ModelOptions)
def evaluate(
    model: Model,
    tasks: Annotated[
        str,
        typer.Option(help="mteb's names, comma-separated (a subset after a colon), or paper32."),
    ] = "",
    task_data: Annotated[
        Path | None,
        typer.Option(help="Folder with a folder of files a task: nothing is asked of the hub."),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(
            help="A labelled table of your own (FILE or FILE:kind), or a folder in the BEIR layout; "
            "may be repeated."
        ),
    ] = None,
    images: Images = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the run, or a scan of the same model  [default: runs/MODEL--tasks]"
        ),
    ] = None,
    bank: Annotated[
        Path | None, typer.Option(help="Folder for the pooled vectors  [default: OUT/bank]")
    ] = None,
    mteb_results: Annotated[
        Path | None,
        typer.Option(
            help="Folder of an mteb.ResultCache: mteb's own results, a layer as an experiment."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace scores in --out.")
    ] = False,
    threads: Threads = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    debug: Debug = False,
    *,
    settings: Given,
) -> None:
    """Score every layer of a model on tasks of mteb, from one pass over their texts."""
    Failures.debug = debug
    calm_libraries(threads)
    from layerscope import api

    arguments: dict[str, Any] = {
        **settings,
        "task_data": task_data,
        "tables": tuple(table or ()),
        "images": images,
        "bank": bank,
        "mteb_results": mteb_results,
        "show_progress": not (quiet or as_json),
    }
    if dry_run:
        estimates = api.evaluate.plan(model, tasks, out=out, **arguments).estimate()
        if as_json:
            print_json(asdict(estimates))
        else:
            from layerscope.render import estimates as estimates_module

            print_view(estimates_module.evaluation_view(estimates))
        return
    folder = out or api.default_folder(model, images or "tasks")
    Failures.folder = folder
    found = api.evaluate(model, tasks, out=folder, overwrite=overwrite, **arguments)
    if not quiet:
        _print_evaluation(found, as_json=as_json, verbose=verbose)


def _print_evaluation(found: Evaluation, *, as_json: bool, verbose: bool) -> None:
    if as_json:
        print_json(
            {
                "folder": str(found.folder),
                "record": found.record,
                "table": records(found.task_rows()),
            }
        )
        return

    print_view(found.view(), verbose=verbose)
    print_page(Path(str(found.folder)) / "page.html")
