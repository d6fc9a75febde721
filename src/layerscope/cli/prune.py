"""`layerscope prune`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layerscope.cli.app import (
    Failures,
    app,
    calm_libraries,
    print_json,
    print_pushed,
    print_view,
    step,
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
    with_settings,
)
from layerscope.settings import HubConfig, ModelOptions, PruneConfig, ReadingConfig

if TYPE_CHECKING:
    from layerscope.export.pruning import Pruning, PruningEstimates
    from layerscope.render.view import Step

_EXAMPLE = """
Drop the blocks that a measured rule finds redundant, compared with dropping as many at random.

Rules: frenet, nrs, gfmi (gfmi-gain), gfmi-signed-gain, gfmi-level-low, gfmi-level-high,
block-influence, angular-contiguous, angular, cka, healing, deepest-first, random, or any measure of
single layers (see layerscope metrics), whose change across a block then counts.

Example:

    layerscope prune sentence-transformers/all-MiniLM-L6-v2 --rule block-influence --budget 1

    layerscope prune ./my-model --budget 0.15 --data notes.csv --column text --out out/

    layerscope prune ./my-model --rule gfmi --budget 0.1,0.2 --evaluate STSBenchmark

    layerscope prune facebook/dinov2-small --images photos --table labelled-photos
"""


@app.command(help=_EXAMPLE, cls=Command)
@with_settings(PruneConfig, ReadingConfig, ModelOptions, HubConfig)
def prune(
    model: Model,
    rule: Annotated[str, typer.Option(help="What says which blocks go.")] = "angular",
    budget: Annotated[
        str,
        typer.Option(help="Part of the blocks (0.15 or 15%) or their number; several compare."),
    ] = "0.1",
    data: Annotated[
        str, typer.Option(help="Texts to measure the blocks on, and to compare on.")
    ] = "sample",
    images: Images = None,
    run: Annotated[
        Path | None, typer.Option(help="A scan of this model to go by  [default: scan --data]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the smaller model; without it none is saved.")
    ] = None,
    evaluate: Annotated[
        str, typer.Option(help="Tasks to try it on, as of layerscope evaluate.")
    ] = "",
    task_data: Annotated[
        Path | None, typer.Option(help="Folder with a folder of files a task.")
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(
            help="A labelled table to try it on (FILE or FILE:kind), or labelled images with --images; "
            "may be repeated."
        ),
    ] = None,
    perplexity: Annotated[
        str | None,
        typer.Option(
            help="Held-out texts for a model that writes text  [default: sample, with --evaluate]"
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model saved by layerscope in --out.")
    ] = False,
    threads: Threads = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    *,
    settings: Given,
) -> None:
    """Drop the blocks that a measured rule finds redundant."""
    Failures.debug = debug
    calm_libraries(threads)
    from layerscope import api

    arguments: dict[str, Any] = {
        **settings,
        "data": data,
        "images": images,
        "run": run,
        "out": out,
        "overwrite": overwrite,
        "evaluate": evaluate,
        "task_data": task_data,
        "tables": tuple(table or ()),
        "perplexity": perplexity,
        "show_progress": not (quiet or as_json),
    }
    if dry_run:
        _print_estimate(api.prune.plan(model, rule, budget, **arguments).estimate(), as_json)
        return
    found = api.prune(model, rule, budget, **arguments)
    if as_json:
        print_json(_facts(found))
    elif not quiet:
        reading = ("--data", data) if images is None else ("--images", images)
        asked = ("prune", model, "--rule", rule, "--budget", budget.partition(",")[0], *reading)
        unsaved = out is None and settings["parts"] == "blocks"
        _print(found, (step("saves it", *asked, "--out", "out/"),) if unsaved else ())
        print_pushed(found.pushed)


def _print_estimate(found: PruningEstimates, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
        return
    from layerscope.render import estimates

    print_view(
        estimates.pruning_view(
            [
                ("blocks", f"{found.of}, of which {len(found.eligible)} may go"),
                ("to drop", ", ".join(map(str, found.budgets))),
                *(("which", ", ".join(map(str, blocks))) for blocks in found.removed),
                *([("models to try", f"{found.tried:,}")] if found.tried else []),
                *([("scans", f"{found.scans:,}")] if found.scan else []),
                *_healing_time(found),
            ],
            found.weight_bytes,
            found.free_bytes,
            found.scan,
        )
    )


def _healing_time(found: PruningEstimates) -> list[tuple[str, str]]:
    from layerscope.render import words

    if found.healing_seconds is None:
        return []
    most = "" if found.removed else "at most "
    return [("time to heal, about", f"{most}{words.duration(found.healing_seconds)}")]


def _print(found: Pruning, steps: tuple[Step, ...]) -> None:
    from layerscope.render import models
    from layerscope.results.display import in_words_of

    view = models.pruning_view(
        found.rule,
        found.outcomes,
        model=f"{found.model['name']}, {found.model['blocks']} blocks",
        scheme=found.scheme,
        kinds=found.kinds,
        eligible=found.eligible,
        costs=found.costs,
        shipped=found.shipped,
        usage=found.usage,
        notes=found.notes,
    )
    print_view(replace(in_words_of(found.record, view), steps=steps))


def _facts(found: Pruning) -> dict[str, Any]:
    shipped = found.shipped
    saved = None if shipped is None else asdict(shipped) | {"folder": str(shipped.folder)}
    facts = {"removed": list(found.removed), "saved": saved, "pushed": found.pushed or None}
    return found.record | facts
