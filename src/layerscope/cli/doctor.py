"""`layerscope doctor`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from layerscope.cli.app import Failures, app, calm_libraries, listed, print_json, print_view, step
from layerscope.cli.help import Command
from layerscope.cli.options import (
    Debug,
    Given,
    Json,
    Model,
    Quiet,
    Threads,
    with_settings,
)
from layerscope.settings import FewTextsConfig, ModelOptions

_EXAMPLE = """
Prove that layer k is layer k for this very model, or say where it is not.

Exits with 1 if a check fails.

Example:

    layerscope doctor sentence-transformers/all-MiniLM-L6-v2

    layerscope doctor ./my-model --data notes.csv --column text --skip reload
"""


@app.command(help=_EXAMPLE, cls=Command)
@with_settings(FewTextsConfig, ModelOptions)
def doctor(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            help="Texts: .txt, .jsonl, .csv, .parquet, a datasets id, - for standard input, or sample."
        ),
    ] = "sample",
    skip: Annotated[
        str | None, typer.Option(help="Checks to leave out, comma-separated, like encode,reload.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the texts that are taken.")] = 0,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    *,
    settings: Given,
) -> None:
    """Prove that layer k is layer k for this very model, or say where it is not."""
    Failures.debug = debug
    calm_libraries(threads)
    from layerscope import api
    from layerscope.render import models

    found = api.doctor(
        model,
        data,
        **settings,
        skip=() if skip is None else listed(skip),
        seed=seed,
        show_progress=not (quiet or as_json),
    )
    if as_json:
        print_json(found.as_dict())
    elif not quiet:
        steps = (step("measures every layer", "scan", model),) if found.healthy else ()
        print_view(replace(models.diagnosis_view(found), steps=steps))
    if not found.healthy:
        raise SystemExit(1)
