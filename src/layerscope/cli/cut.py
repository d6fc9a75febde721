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
    check_choice,
    most,
    open_console,
    print_json,
)
from layerscope.cli.options import (
    Column,
    Debug,
    Device,
    DeviceMap,
    DryRun,
    Dtype,
    Json,
    MaxLength,
    Model,
    Quiet,
    Revision,
    Split,
    Threads,
    TrustRemoteCode,
)
from layerscope.render import terminal_models

if TYPE_CHECKING:
    from layerscope.export.cut import Cut, CutEstimates

_EXAMPLE = """
Save the model that ends at the chosen layer; it is loaded again and compared before success is said.

Example:

    layerscope cut sentence-transformers/all-MiniLM-L6-v2 --layer 5 --out out/

    layerscope cut ./my-model --data notes.csv --column text --out out/

    layerscope cut ./my-model --run runs/my-model --out out/
"""


@app.command(help=_EXAMPLE)
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
    data: Annotated[
        str, typer.Option(help="Texts to scan where there is no --run, and to compare on.")
    ] = "sample",
    column: Column = None,
    split: Split = None,
    limit: Annotated[int, typer.Option(help="Most texts to scan; 0 uses all.")] = 1000,
    format: Annotated[  # noqa: A002
        str, typer.Option(help="sentence-transformers, transformers or onnx.")
    ] = "sentence-transformers",
    kind: Annotated[
        str,
        typer.Option(help="cut, or pointer: the whole model, and where in it the layer is."),
    ] = "cut",
    final_norm: Annotated[
        str,
        typer.Option(help="drop: the layer as scanned; keep: behind the final norm; auto: drop."),
    ] = "auto",
    head: Annotated[
        bool, typer.Option("--head", help="Keep the checkpoint's head; needs --final-norm keep.")
    ] = False,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="mean, last, first, weighted_mean or max  [default: the source's, else mean]"
        ),
    ] = None,
    special_tokens: Annotated[
        str | None,
        typer.Option(
            help="exclude or include the tokens that the tokenizer adds  [default: exclude]"
        ),
    ] = None,
    first_token: Annotated[
        str | None, typer.Option(help="auto (out if it is an attention sink), keep or drop.")
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale vectors to unit length.")
    ] = False,
    max_length: MaxLength = 512,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model saved by layerscope in --out.")
    ] = False,
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
    """Save the model that ends at the chosen layer."""
    Failures.debug = debug
    if special_tokens is not None:
        check_choice("special tokens", special_tokens, ("exclude", "include"))
    calm_libraries(threads)
    from layerscope import api
    from layerscope.models.loading import ModelOptions
    from layerscope.render.progress import bars

    arguments: dict[str, Any] = {
        "out": out,
        "run": run,
        "rule": rule,
        "data": data,
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
        "overwrite": overwrite,
        "watch": None if quiet or as_json else bars,
        "format": format,
        "kind": kind,
        "final_norm": final_norm,
        "head": head,
        "pooling": pooling,
        "special_tokens": None if special_tokens is None else special_tokens == "include",
        "first_token": first_token,
        "normalize": normalize,
        "max_length": max_length,
    }
    if dry_run:
        _print_estimate(api.estimate_cut(model, _layer(layer), **arguments), as_json)
        return
    found = api.cut(model, _layer(layer), **arguments)
    if as_json:
        print_json(_facts(found))
    elif not quiet:
        open_console().print(terminal_models.cut_summary(found))


def _print_estimate(found: CutEstimates, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
        return

    open_console().print(terminal_models.cut_estimate_table(found))


def _layer(text: str) -> Any:
    from layerscope.errors import InputError

    if text == "auto" or text.lstrip("-").isdigit():
        return text if text == "auto" else int(text)
    raise InputError(f"expected a layer's number or auto, got --layer {text}.")


def _facts(found: Cut) -> dict[str, Any]:
    shipped = found.shipped
    return {
        "folder": str(found.folder),
        "layer": found.layer,
        "of": found.of,
        "blocks": found.blocks,
        "stage": found.stage,
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
