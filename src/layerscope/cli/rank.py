"""`layerscope rank`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from layerscope.cli.app import (
    Failures,
    app,
    calm_libraries,
    open_console,
    print_json,
)
from layerscope.cli.options import (
    Debug,
    DryRun,
    Given,
    Json,
    Quiet,
    Threads,
    with_settings,
)
from layerscope.settings import ModelOptions, RankConfig, ReadingConfig

_EXAMPLE = """
Order models without labels, by what is measured on the same texts.

Example:

    layerscope rank BAAI/bge-small-en-v1.5 ./my-model --data notes.csv

    layerscope rank runs/one runs/two runs/three --scores mteb.csv --by mean_nrs
"""


@app.command(help=_EXAMPLE)
@with_settings(RankConfig, ReadingConfig, ModelOptions)
def rank(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Hub ids, local folders, GGUF files, and folders of scans of the same texts.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Texts, as for scan  [default: sample, or what the given scans were made on]"
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="d_0L, mean_nrs, mean_gfmi, rankme, dataset_entropy, prompt_entropy, width, depth "
            "or parameters."
        ),
    ] = "d_0L",
    scores: Annotated[
        list[str] | None,
        typer.Option(
            help="Known scores: a table with model, score and perhaps task, a long table, or a run's "
            "folder; may be repeated."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the ranking and its scans  [default: runs/rank--DATA if any is made]"
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace a ranking in --out, and scans that do not fit."),
    ] = False,
    threads: Threads = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    *,
    settings: Given,
) -> None:
    """Order models without labels, by what is measured on the same texts."""
    Failures.debug = debug
    calm_libraries(threads)
    from layerscope import api
    from layerscope.render import correlations, terminal
    from layerscope.render import estimates as estimates_module

    only_runs = all(api.is_run(model) for model in models)
    texts = data if data is not None or only_runs else "sample"
    folder = out if out is not None or texts is None else api.default_folder("rank", texts)
    Failures.folder = folder
    arguments: dict[str, Any] = {
        **settings,
        "by": by,
        "scores": scores or (),
        "out": folder,
        "overwrite": overwrite,
        "show_progress": not (quiet or as_json),
    }
    if dry_run:
        estimates = api.rank.plan(models, texts, **arguments).estimate()
        if as_json:
            print_json({model: each and asdict(each) for model, each in estimates})
        else:
            open_console().print(terminal.drawn(estimates_module.ranking_view(estimates)))
        return
    found = api.rank(models, texts, **arguments)
    if as_json:
        print_json({"folder": None if folder is None else str(folder)} | found.as_dict())
    elif not quiet:
        open_console().print(terminal.drawn(correlations.ranking_view(found)))
