"""`layerscope cut`."""

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
    print_pushed,
    print_view,
)
from layerscope.cli.help import Command
from layerscope.cli.options import (
    Debug,
    DryRun,
    Given,
    Json,
    Model,
    Quiet,
    Threads,
    with_settings,
)
from layerscope.settings import CutConfig, HubConfig, ModelOptions, ReadingConfig

if TYPE_CHECKING:
    from layerscope.export.cut import Cut, CutEstimates

_EXAMPLE = """
Save the model that ends at the chosen layer; it is loaded again and compared before success is said.

Example:

    layerscope cut sentence-transformers/all-MiniLM-L6-v2 --layer 5 --out out/

    layerscope cut ./my-model --data notes.csv --column text --out out/

    layerscope cut ./my-model --run runs/my-model --out out/
"""


@app.command(help=_EXAMPLE, cls=Command)
@with_settings(CutConfig, ReadingConfig, ModelOptions, HubConfig)
def cut(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    layer: Annotated[
        str, typer.Option(help="1 to the number of blocks, or auto: as a rule chooses.")
    ] = "auto",
    run: Annotated[
        Path | None, typer.Option(help="A scan of this model to choose by  [default: scan --data]")
    ] = None,
    rule: Annotated[
        str | None, typer.Option(help="Rule to choose by; see layerscope select.")
    ] = None,
    readout: Annotated[
        str | None, typer.Option(help='A readout to save, like "24+30+6 unit, z-score".')
    ] = None,
    prefer: Annotated[
        str, typer.Option(help="quality, or cheap: the lowest layer within noise of the best.")
    ] = "quality",
    data: Annotated[
        str, typer.Option(help="Texts to scan where there is no --run, and to compare on.")
    ] = "sample",
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
    """Save the model that ends at the chosen layer."""
    Failures.debug = debug
    calm_libraries(threads)
    from layerscope import api

    arguments: dict[str, Any] = {
        "out": out,
        "run": run,
        "rule": rule,
        "readout": readout,
        "prefer": prefer,
        "data": data,
        **settings,
        "overwrite": overwrite,
        "show_progress": not (quiet or as_json),
    }
    if dry_run:
        _print_estimate(api.cut.plan(model, _layer(layer), **arguments).estimate(), as_json)
        return
    found = api.cut(model, _layer(layer), **arguments)
    if as_json:
        print_json(_facts(found))
    elif not quiet:
        from layerscope.render import models

        print_view(models.cut_view(found))
        print_pushed(found.pushed)


def _print_estimate(found: CutEstimates, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
        return
    from layerscope.render import estimates

    print_view(estimates.cut_view(found))


def _layer(text: str) -> Any:
    from layerscope.errors import InputError

    if text == "auto" or text.lstrip("-").isdigit():
        return text if text == "auto" else int(text)
    raise InputError(f"expected a layer's number or auto, got --layer {text}.")


def _facts(found: Cut) -> dict[str, Any]:
    shipped = found.shipped
    return {
        "folder": str(found.folder),
        "pushed": found.pushed or None,
        "layer": found.layer,
        "of": found.of,
        "blocks": found.blocks,
        "stage": found.stage,
        "readout": found.readout or None,
        "output": list(found.output),
        "format": found.settings.format,
        "parameters": shipped.parameters,
        "bytes": shipped.size,
        "weight_bytes": shipped.weights,
        "source_weight_bytes": found.source_size,
        "notes": list(found.notes),
        "evidence": list(found.evidence),
        "verified": asdict(shipped.verification),
        "seconds": shipped.seconds,
    }
