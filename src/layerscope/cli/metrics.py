"""`layerscope metrics`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Annotated, Any

import typer

from layerscope.cli.app import Failures, app, print_json, print_view
from layerscope.cli.help import Command
from layerscope.cli.options import Debug, Json


@app.command(cls=Command)
def metrics(
    name: Annotated[str | None, typer.Argument(help="One measure; all if left out.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List every measure, or explain one: formula, range, direction, conventions, reference.

    Example:
        layerscope metrics curvature
    """
    Failures.debug = debug
    from layerscope import api
    from layerscope.render import catalogue

    chosen = api.list_metrics() if name is None else (api.get_metric(name),)
    if as_json:
        print_json([_measure_facts(measure) for measure in chosen])
    elif name is None:
        print_view(catalogue.catalogue_view(chosen))
    else:
        print_view(catalogue.measure_view(chosen[0]))


def _measure_facts(measure: Any) -> dict[str, Any]:
    facts = {name: _plain(getattr(measure, name)) for name in measure.__dataclass_fields__}
    return {name: value for name, value in facts.items() if name != "function"}


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset | set | tuple | list):
        return sorted(value) if isinstance(value, frozenset | set) else [_plain(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return None if isinstance(value, Callable) else value  # type: ignore[arg-type]
