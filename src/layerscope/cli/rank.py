"""`layerscope rank`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layerscope.cli.app import (
    Failures,
    app,
    calm_libraries,
    print_json,
    print_view,
)
from layerscope.cli.help import Command
from layerscope.cli.options import (
    Debug,
    DryRun,
    Given,
    Images,
    Json,
    Quiet,
    Threads,
    Verbose,
    with_settings,
)
from layerscope.errors import few_models
from layerscope.settings import DEFAULT_PREDICTOR, ModelOptions, RankConfig, ReadingConfig

if TYPE_CHECKING:
    from layerscope.analysis.run import Estimates
    from layerscope.decisions.rank import Ranking

_EXAMPLE = """
Order models without labels, by what is measured on the same texts or images.

Example:

    layerscope rank BAAI/bge-small-en-v1.5 ./my-model --data notes.csv

    layerscope rank runs/one runs/two runs/three --scores mteb.csv --by mean_nrs
"""


@app.command(help=_EXAMPLE, cls=Command)
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
    images: Images = None,
    by: Annotated[
        str,
        typer.Option(
            help="rankme, d_0L, mean_nrs, mean_gfmi, dataset_entropy, prompt_entropy, width, depth "
            "or parameters."
        ),
    ] = DEFAULT_PREDICTOR,
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
    verbose: Verbose = False,
    quiet: Quiet = False,
    debug: Debug = False,
    *,
    settings: Given,
) -> None:
    """Order models without labels, by what is measured on the same texts or images."""
    Failures.debug = debug
    if len(models) < 2:  # before anything heavy is imported
        raise few_models(models)
    arguments: dict[str, Any] = {
        **settings,
        "images": images,
        "by": by,
        "scores": scores or (),
        "overwrite": overwrite,
    }
    found = _found(models, data, out, threads, arguments, plain=quiet or as_json, dry_run=dry_run)
    from layerscope.render import correlations
    from layerscope.render import estimates as estimates_module

    if isinstance(found, tuple):
        if as_json:
            print_json({model: each and asdict(each) for model, each in found})
        else:
            print_view(estimates_module.ranking_view(found))
    elif as_json:
        folder = None if Failures.folder is None else str(Failures.folder)
        print_json({"folder": folder} | found.as_dict())
    elif not quiet:
        print_view(correlations.ranking_view(found), verbose=verbose)


def _found(
    models: list[str],
    data: str | None,
    out: Path | None,
    threads: int | None,
    arguments: dict[str, Any],
    *,
    plain: bool,
    dry_run: bool,
) -> Ranking | tuple[tuple[str, Estimates | None], ...]:
    """Return the ranking, or what it would take; a bar stands before the libraries are imported."""
    from layerscope.render.progress import bars

    with nullcontext() if plain else bars() as progress:
        if progress:
            progress("starting", 0, 1)
        calm_libraries(threads)
        from layerscope import api

        only_runs = all(api.is_run(model) for model in models)
        images = arguments["images"]
        texts = data if data is not None or images is not None or only_runs else "sample"
        named = texts or images
        folder = out if out is not None or named is None else api.default_folder("rank", named)
        Failures.folder = folder
        if progress:
            progress("starting", 1, 1)
        plan = api.rank.plan(
            models, texts, out=folder, show_progress=progress or False, **arguments
        )
        return plan.estimate() if dry_run else plan.run()
