"""`layerscope scan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layerscope.cli.app import (
    Failures,
    app,
    calm_libraries,
    plots_asked,
    print_json,
    print_page,
    print_view,
    records,
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
    Png,
    Quiet,
    Svg,
    Threads,
    Verbose,
    with_settings,
)
from layerscope.settings import DEFAULT_LIMIT, ModelOptions, ReadingConfig, ScanConfig

if TYPE_CHECKING:
    from layerscope.analysis.run import Estimates
    from layerscope.api.scanning import Scan
    from layerscope.decisions.select import Selection
    from layerscope.render.view import Step

_SCAN_EXAMPLE = """
Measure every layer of a model on texts or images, in one pass.

Example:

    layerscope scan sentence-transformers/all-MiniLM-L6-v2 --data sample

    layerscope scan ./my-model --data notes.csv --column text --views 16

    layerscope scan facebook/dinov2-small --images photos
"""


@app.command(help=_SCAN_EXAMPLE, cls=Command)
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
    verbose: Verbose = False,
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
    if as_json:
        _print_facts(found)
    elif not quiet:
        chosen = found.advice()
        steps = next_steps(chosen, model, folder, images, _read_as(data, settings))
        print_view(replace(found.view(), steps=steps), verbose=verbose)
        print_page(folder / "page.html")


def _recommendation(chosen: Selection) -> dict[str, Any]:
    """Return the layer to use as plain values."""
    return {
        "rule": chosen.rule,
        "layer": chosen.layer,
        "sentence": chosen.sentence,
        "choices": [asdict(choice) for choice in chosen.chosen],
    }


def _print_facts(found: Scan) -> None:
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


def _read_as(data: str | None, settings: Given) -> list[str]:
    """Return the options that read the same texts again."""
    given = {"data": data} | {name: settings[name] for name in ("column", "split", "limit")}
    defaults = {"data": "sample", "limit": DEFAULT_LIMIT}
    named = {name: value for name, value in given.items() if value != defaults.get(name)}
    return [
        word
        for name, value in named.items()
        for word in (f"--{name}", "all" if value is None else str(value))
    ]


def next_steps(
    chosen: Selection, model: str, folder: Path, images: str | None, read_as: Sequence[str]
) -> tuple[Step, ...]:
    """Return what to do after a scan: take the readout where it is another than the model's own."""
    run = str(folder)
    looked = step("what was compared", "select", run)
    if images is not None:
        return (looked,)
    if chosen.readout is not None and not chosen.readout.keeps_own:
        cut = ("cut", model, "--run", run, *read_as, "--out", "out/")
        return (step("saves it", *cut), looked)
    scored = ("evaluate", model, "--tasks", "STS17", "--out", run)
    return (looked, step("scores every layer", *scored))


def _print_estimate(estimates: Estimates, as_json: bool) -> None:
    if as_json:
        print_json(asdict(estimates))
        return
    from layerscope.render import estimates as estimates_module

    print_view(estimates_module.scan_view(estimates))
