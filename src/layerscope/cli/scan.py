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
    check_choice,
    listed,
    most,
    open_console,
    plots_asked,
    print_json,
    print_page,
    records,
)
from layerscope.cli.options import (
    BatchTokens,
    Column,
    Debug,
    Device,
    DeviceMap,
    DryRun,
    Dtype,
    FirstToken,
    Json,
    Layers,
    MaxLength,
    Model,
    Png,
    Pooling,
    Quiet,
    Revision,
    SpecialTokens,
    Split,
    Svg,
    Threads,
    TrustRemoteCode,
)
from layerscope.render import terminal as terminal_module

if TYPE_CHECKING:
    from layerscope.analysis.run import Estimates
    from layerscope.api.scanning import Scan

_SCAN_EXAMPLE = """
Measure every layer of a model on texts, in one pass.

Example:

    layerscope scan sentence-transformers/all-MiniLM-L6-v2 --data sample

    layerscope scan ./my-model --data notes.csv --column text --views 16
"""


@app.command(help=_SCAN_EXAMPLE)
def scan(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            help="Texts: .txt, .jsonl, .csv, .parquet, a datasets id, - for standard input, or sample."
        ),
    ] = "sample",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the run  [default: runs/MODEL--DATA]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run in --out.")] = False,
    column: Column = None,
    split: Split = None,
    limit: Annotated[int, typer.Option(help="Most texts to use; 0 uses all.")] = 1000,
    views: Annotated[
        int, typer.Option(help="Misspelled copies of each text; 0: no views; 16 as in the paper.")
    ] = 2,
    metrics: Annotated[
        str | None, typer.Option(help="Measures, comma-separated; see layerscope metrics.")
    ] = None,
    convention: Annotated[
        str, typer.Option(help="paper, normalized, reference (comma-separated), or all.")
    ] = "paper,normalized",
    layers: Layers = None,
    stages: Annotated[
        str,
        typer.Option(help="Besides block: attn_norm, attn, attn_residual, mlp_norm, mlp."),
    ] = "block",
    pooling: Pooling = "mean",
    special_tokens: SpecialTokens = "exclude",
    first_token: FirstToken = "auto",
    augmentation: Annotated[
        str,
        typer.Option(
            help="Kinds of views, comma-separated: default or authors (misspelled copies, the latter "
            "with the caps of the published figures), crops, halves, cloze (parts of a text)."
        ),
    ] = "default,crops",
    span_words: Annotated[int, typer.Option(help="Words of a crop, and of a cloze's span.")] = 20,
    draws: Annotated[int, typer.Option(help="Pairs of crops, or clozes, of each text.")] = 1,
    alpha: Annotated[float, typer.Option(help="Order of the matrix-based entropies.")] = 1.0,
    max_length: MaxLength = 512,
    batch_tokens: BatchTokens = 4096,
    non_finite: Annotated[
        str, typer.Option(help="raise, or drop texts whose states hold NaN or infinity.")
    ] = "raise",
    seed: Annotated[int, typer.Option(help="Seed of views, permutations and bootstrap.")] = 0,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    device_map: DeviceMap = None,
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
    png: Png = None,
    svg: Svg = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure every layer of a model on texts, in one pass."""
    Failures.debug = debug
    check_choice("special tokens", special_tokens, ("exclude", "include"))
    calm_libraries(threads)
    from layerscope import api
    from layerscope.config import parse_layers
    from layerscope.models.loading import ModelOptions
    from layerscope.render.progress import bars

    arguments: dict[str, Any] = {
        "column": column,
        "split": split,
        "limit": most(limit),
        "model_options": ModelOptions.of(
            revision=revision,
            dtype=dtype,
            device=device,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
        ),
        "watch": None if quiet or as_json else bars,
        "metrics": None if metrics is None else listed(metrics),
        "conventions": listed(convention),
        "layers": None if layers is None else parse_layers(layers),
        "stages": listed(stages),
        "views": views,
        "augmentation": listed(augmentation),
        "span_words": span_words,
        "draws": draws,
        "alpha": alpha,
        "pooling": pooling,
        "special_tokens": special_tokens == "include",
        "first_token": first_token,
        "max_length": max_length,
        "batch_tokens": batch_tokens,
        "non_finite": non_finite,
        "seed": seed,
    }
    if dry_run:
        _print_estimate(api.estimate_scan(model, data, **arguments), as_json)
        return
    folder = out or api.default_folder(model, data)
    Failures.folder = folder
    pictures = plots_asked(png, svg)
    found = api.scan(model, data, out=folder, overwrite=overwrite, **arguments)
    for path in pictures:
        found.save_plot(path)
    if not quiet:
        _print_scan(found, as_json)


def _recommendation(found: Scan) -> dict[str, Any]:
    """Return the choice of a layer as plain values."""
    chosen = found.select()
    return {
        "rule": chosen.rule,
        "layer": chosen.layer,
        "sentence": chosen.sentence,
        "choices": [asdict(choice) for choice in chosen.chosen],
    }


def _print_scan(found: Scan, as_json: bool) -> None:

    if as_json:
        print_json(
            {
                "folder": str(found.folder),
                "recommendation": _recommendation(found),
                "preferences": [asdict(choice) for choice in found.preferences()],
                "record": found.record,
                "table": records(found.table()),
            }
        )
        return
    run = found.run
    open_console().print(
        terminal_module.scan_summary(
            run.table, run.contributions, run.record,
            choices=found.preferences(), advice=found.advice(),
        )
    )  # fmt: skip
    print_page(Path(str(found.folder)) / "page.html")


def _print_estimate(estimates: Estimates, as_json: bool) -> None:
    if as_json:
        print_json(asdict(estimates))
        return

    open_console().print(terminal_module.estimate_table(estimates))
