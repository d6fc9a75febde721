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
    check_choice,
    listed,
    open_console,
    print_json,
    print_page,
    records,
)
from layerscope.cli.options import (
    BatchTokens,
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
    Pooling,
    Quiet,
    Revision,
    SpecialTokens,
    Threads,
    TrustRemoteCode,
)
from layerscope.render import terminal_tasks

if TYPE_CHECKING:
    from layerscope.api.evaluating import Evaluation

_EXAMPLE = """
Score every layer of a model on tasks of mteb, from one pass over their texts.

Example:

    layerscope evaluate sentence-transformers/all-MiniLM-L6-v2 --tasks STS17,Banking77Classification

    layerscope evaluate ./my-model --table mine.csv --out runs/my-model
"""


@app.command(help=_EXAMPLE)
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
        typer.Option(help="A labelled table of your own (FILE or FILE:kind); may be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the run, or a scan of the same model  [default: runs/MODEL--tasks]"
        ),
    ] = None,
    bank: Annotated[
        Path | None, typer.Option(help="Folder for the pooled vectors  [default: OUT/bank]")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace scores in --out.")
    ] = False,
    layers: Layers = None,
    pooling: Pooling = "mean",
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale vectors to unit length first.")
    ] = False,
    prompt: Annotated[str, typer.Option(help="Put before every text.")] = "",
    query_prompt: Annotated[
        str | None, typer.Option(help="Put before queries instead  [default: --prompt]")
    ] = None,
    probe: Annotated[
        str, typer.Option(help="Also train probes on token states: linear, attention.")
    ] = "",
    special_tokens: SpecialTokens = "exclude",
    first_token: FirstToken = "auto",
    max_length: MaxLength = 512,
    batch_tokens: BatchTokens = 4096,
    bank_poolings: Annotated[
        str | None,
        typer.Option(help="Poolings kept in the bank  [default: all, up to 20 GB]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the probes; mteb has its own.")] = 0,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    device_map: DeviceMap = None,
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score every layer of a model on tasks of mteb, from one pass over their texts."""
    Failures.debug = debug
    check_choice("special tokens", special_tokens, ("exclude", "include"))
    calm_libraries(threads)
    from layerscope import api
    from layerscope.config import parse_layers
    from layerscope.models.loading import ModelOptions
    from layerscope.render.progress import bars

    arguments: dict[str, Any] = {
        "task_data": task_data,
        "tables": tuple(table or ()),
        "bank": bank,
        "model_options": ModelOptions.of(
            revision=revision,
            dtype=dtype,
            device=device,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
        ),
        "watch": None if quiet or as_json else bars,
        "layers": None if layers is None else parse_layers(layers),
        "pooling": pooling,
        "normalize": normalize,
        "prompt": prompt,
        "query_prompt": query_prompt,
        "probes": listed(probe),
        "special_tokens": special_tokens == "include",
        "first_token": first_token,
        "max_length": max_length,
        "batch_tokens": batch_tokens,
        "bank_poolings": None if bank_poolings is None else listed(bank_poolings),
        "seed": seed,
    }
    if dry_run:
        estimates = api.estimate_evaluation(model, tasks, out=out, **arguments)
        if as_json:
            print_json(asdict(estimates))
        else:
            open_console().print(terminal_tasks.evaluation_estimate_table(estimates))
        return
    folder = out or api.default_folder(model, "tasks")
    Failures.folder = folder
    found = api.evaluate(model, tasks, out=folder, overwrite=overwrite, **arguments)
    if not quiet:
        _print_evaluation(found, as_json)


def _print_evaluation(found: Evaluation, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "folder": str(found.folder),
                "record": found.record,
                "table": records(found.task_rows()),
            }
        )
        return

    open_console().print(terminal_tasks.evaluation_summary(found.run.table, found.record))
    print_page(Path(str(found.folder)) / "page.html")
