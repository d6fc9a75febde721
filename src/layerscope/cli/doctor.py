"""`layerscope doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from layerscope.cli.app import Failures, app, calm_libraries, listed, most, open_console, print_json
from layerscope.cli.options import (
    Column,
    Debug,
    Device,
    DeviceMap,
    Dtype,
    Json,
    Model,
    Quiet,
    Revision,
    Split,
    Threads,
    TrustRemoteCode,
)
from layerscope.render import terminal_models

_EXAMPLE = """
Prove that layer k is layer k for this very model, or say where it is not.

Exits with 1 if a check fails.

Example:

    layerscope doctor sentence-transformers/all-MiniLM-L6-v2

    layerscope doctor ./my-model --data notes.csv --column text --skip reload
"""


@app.command(help=_EXAMPLE)
def doctor(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            help="Texts: .txt, .jsonl, .csv, .parquet, a datasets id, - for standard input, or sample."
        ),
    ] = "sample",
    column: Column = None,
    split: Split = None,
    limit: Annotated[
        int, typer.Option(help="Most texts to read (0: all), each cut to 64 tokens.")
    ] = 16,
    skip: Annotated[
        str | None, typer.Option(help="Checks to leave out, comma-separated, like encode,reload.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the texts that are taken.")] = 0,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    device_map: DeviceMap = None,
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Prove that layer k is layer k for this very model, or say where it is not."""
    Failures.debug = debug
    calm_libraries(threads)
    from layerscope import api
    from layerscope.models.loading import ModelOptions
    from layerscope.render.progress import bars

    found = api.doctor(
        model,
        data,
        column=column,
        split=split,
        limit=most(limit),
        skip=() if skip is None else listed(skip),
        seed=seed,
        model_options=ModelOptions.of(
            revision=revision,
            dtype=dtype,
            device=device,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
        ),
        watch=None if quiet or as_json else bars,
    )
    if as_json:
        print_json(found.as_dict())
    elif not quiet:
        open_console().print(terminal_models.diagnosis_table(found))
    if not found.healthy:
        raise SystemExit(1)
