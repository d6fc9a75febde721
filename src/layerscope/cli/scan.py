"""`layerscope scan`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layerscope.cli.app import (
    Failures,
    app,
    calm_libraries,
    open_console,
    plots_asked,
    print_json,
    print_page,
    records,
)
from layerscope.cli.options import (
    Debug,
    DryRun,
    Given,
    Images,
    Json,
    Model,
    Png,
    Quiet,
    Svg,
    Threads,
    with_settings,
)
from layerscope.settings import ModelOptions, ReadingConfig, ScanConfig

if TYPE_CHECKING:
    from layerscope.analysis.run import Estimates
    from layerscope.api.scanning import Scan
    from layerscope.decisions.select import Selection

_SCAN_EXAMPLE = """
Measure every layer of a model on texts or images, in one pass.

Example:

    layerscope scan sentence-transformers/all-MiniLM-L6-v2 --data sample

    layerscope scan ./my-model --data notes.csv --column text --views 16

    layerscope scan facebook/dinov2-small --images photos
"""


@app.command(help=_SCAN_EXAMPLE)
@with_settings(ScanConfig, ReadingConfig, ModelOptions)
def scan(
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(
            help="Texts: .txt, .jsonl, .csv, .parquet, a datasets id, - for standard input, or sample  "
            "[default: sample]"
        ),
    ] = None,
    images: Images = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the run  [default: runs/MODEL--DATA]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run in --out.")] = False,
    threads: Threads = None,
    png: Png = None,
    svg: Svg = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    *,
    settings: Given,
) -> None:
    """Measure every layer of a model on texts or images, in one pass."""
    Failures.debug = debug
    calm_libraries(threads)
    from layerscope import api

    arguments: dict[str, Any] = {
        **settings,
        "images": images,
        "show_progress": not (quiet or as_json),
    }
    data = "sample" if data is None and images is None else data
    if dry_run:
        _print_estimate(api.scan.plan(model, data, **arguments).estimate(), as_json)
        return
    folder = out or api.default_folder(model, str(data or images))
    Failures.folder = folder
    pictures = plots_asked(png, svg)
    found = api.scan(model, data, out=folder, overwrite=overwrite, **arguments)
    for path in pictures:
        found.save_plot(path)
    if not quiet:
        _print_scan(found, as_json)


def _recommendation(chosen: Selection) -> dict[str, Any]:
    """Return the layer to use as plain values."""
    return {
        "rule": chosen.rule,
        "layer": chosen.layer,
        "sentence": chosen.sentence,
        "choices": [asdict(choice) for choice in chosen.chosen],
    }


def _print_scan(found: Scan, as_json: bool) -> None:
    from layerscope.render import terminal

    if as_json:
        chosen = found.select()
        print_json(
            {
                "folder": str(found.folder),
                "recommendation": _recommendation(chosen),
                "choices": [asdict(choice) for choice in chosen.choices],
                "record": found.record,
                "table": records(found.table()),
            }
        )
        return
    open_console().print(terminal.drawn(found.view()))
    print_page(Path(str(found.folder)) / "page.html")


def _print_estimate(estimates: Estimates, as_json: bool) -> None:
    if as_json:
        print_json(asdict(estimates))
        return
    from layerscope.render import estimates as estimates_module
    from layerscope.render import terminal

    open_console().print(terminal.drawn(estimates_module.scan_view(estimates)))
