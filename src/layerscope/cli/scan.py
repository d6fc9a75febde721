"""`layerscope scan`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layerscope.cli.app import (
    Debug,
    Failures,
    Json,
    app,
    calm_libraries,
    check_choice,
    check_plot,
    listed,
    open_console,
    print_json,
    records,
)

if TYPE_CHECKING:
    from layerscope.api import Scan
    from layerscope.estimates import Estimates

_SCAN_EXAMPLE = """
Measure every layer of a model on texts, in one pass.

Example:

    layerscope scan sentence-transformers/all-MiniLM-L6-v2 --data sample

    layerscope scan ./my-model --data notes.csv --column text --views 16
"""


@app.command(help=_SCAN_EXAMPLE)
def scan(
    model: Annotated[
        str,
        typer.Argument(help="Hub id, local folder, GGUF file or sentence-transformers folder."),
    ],
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
    column: Annotated[str | None, typer.Option(help="Column that holds the texts.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a datasets id.")] = None,
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
    layers: Annotated[str | None, typer.Option(help="Layers, like 0,4-6  [default: all]")] = None,
    stages: Annotated[
        str,
        typer.Option(help="Besides block: attn_norm, attn, attn_residual, mlp_norm, mlp."),
    ] = "block",
    pooling: Annotated[str, typer.Option(help="mean, last, first, weighted_mean or max.")] = "mean",
    special_tokens: Annotated[
        str, typer.Option(help="exclude or include the tokens that the tokenizer adds.")
    ] = "exclude",
    first_token: Annotated[
        str, typer.Option(help="auto (out if it is an attention sink), keep or drop.")
    ] = "auto",
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
    max_length: Annotated[int, typer.Option(help="Most tokens a text may have.")] = 512,
    batch_tokens: Annotated[int, typer.Option(help="Padded tokens in one forward pass.")] = 4096,
    non_finite: Annotated[
        str, typer.Option(help="raise, or drop texts whose states hold NaN or infinity.")
    ] = "raise",
    seed: Annotated[int, typer.Option(help="Seed of views, permutations and bootstrap.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    dtype: Annotated[
        str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, float16.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="Passed to transformers; auto spreads a large model.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads  [default: torch's]")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
    png: Annotated[Path | None, typer.Option(help="Also write the plots to a .png file.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Also write the plots to a .svg file.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take, and stop.")
    ] = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    debug: Debug = False,
) -> None:
    """Measure every layer of a model on texts, in one pass."""
    Failures.debug = debug
    check_choice("special tokens", special_tokens, ("exclude", "include"))
    calm_libraries(threads)
    from layerscope import api
    from layerscope.models import ModelOptions
    from layerscope.progress import bars
    from layerscope.settings import parse_layers

    arguments: dict[str, Any] = {
        "column": column,
        "split": split,
        "limit": limit or None,
        "model_options": ModelOptions(revision, dtype, device, device_map, trust_remote_code),
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
    for path, suffix in ((png, ".png"), (svg, ".svg")):
        if path is not None:
            check_plot(path, suffix)
    found = api.scan(model, data, out=folder, overwrite=overwrite, **arguments)
    for path in (png, svg):
        if path is not None:
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
    from layerscope import terminal

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
    console = open_console()
    console.print(terminal.scan_summary(run.table, run.contributions, run.record))
    page = (Path(str(found.folder)) / "page.html").resolve()
    console.print(f"\nPage: {page.as_uri()}", soft_wrap=True)


def _print_estimate(estimates: Estimates, as_json: bool) -> None:
    if as_json:
        print_json(asdict(estimates))
        return
    from layerscope import terminal

    open_console().print(terminal.estimate_table(estimates))
