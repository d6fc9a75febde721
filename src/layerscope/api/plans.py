"""Public functions made from the configs: settings as keyword arguments, and plans that run.

`scan(...)` is `scan.plan(...).run()`. A plan has refused all that can be refused without the model;
its `estimate()` says what `run()` would take, and writes nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ParamSpec, Protocol, TypeVar, cast

from pydantic import PlainValidator

from layerscope.config import Config, Words, checked
from layerscope.errors import unknown_name
from layerscope.render.progress import bars
from layerscope.states.extract import Progress, silent

C = TypeVar("C", bound=Config)
P = ParamSpec("P")
R = TypeVar("R")
Found = TypeVar("Found", covariant=True)
Estimate = TypeVar("Estimate", covariant=True)


class Plan(Protocol[Found, Estimate]):
    """What a command would do."""

    def estimate(self) -> Estimate:
        """Return what it would take in time, memory and disk; nothing is written."""

    def run(self) -> Found:
        """Do it."""


class Command(Protocol[P, Found, Estimate]):
    """A public function, with the plan that it runs."""

    def __call__(self, *given: P.args, **named: P.kwargs) -> Found:
        """Plan and run."""

    def plan(self, *given: P.args, **named: P.kwargs) -> Plan[Found, Estimate]:
        """Return the plan only."""


def command(
    *configs: type[Config],
) -> Callable[[Callable[P, Plan[R, Estimate]]], Command[P, R, Estimate]]:
    """Turn a function that returns a plan into one that runs it, and keep the plan as `.plan`.

    Args:
        configs: whose settings the function takes as keyword arguments; they are what its signature
            and `help` show.
    """

    def decorate(make: Callable[P, Plan[R, Estimate]]) -> Command[P, R, Estimate]:
        planned = with_settings(*configs)(make)

        @functools.wraps(planned)
        def call(*given: P.args, **named: P.kwargs) -> R:
            return planned(*given, **named).run()

        call.plan = planned  # type: ignore[attr-defined]
        return cast("Command[P, R, Estimate]", call)

    return decorate


def with_settings(*configs: type[Config]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check a function's arguments, and that its `**settings` are settings of some configs."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        fields = {name: field for each in configs for name, field in each.model_fields.items()}
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        function_checked = checked(function)

        @functools.wraps(function)
        def call(*given: P.args, **named: P.kwargs) -> R:
            known = [*fields, *(each.name for each in own)]
            for name in named:
                if name not in known:
                    raise unknown_name("setting", name, known)
            return function_checked(*given, **named)

        settings = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY,
                default=field.default, annotation=field.annotation,
            )
            for name, field in fields.items()
        ]  # fmt: skip
        call.__signature__ = signature.replace(parameters=[*own, *settings])  # type: ignore[attr-defined]
        return call

    return decorate


def part(config: type[C], settings: Mapping[str, Any], base: C | None = None) -> C:
    """Return those settings that belong to a config, checked; others of `base` stay as they are."""
    own = {name: value for name, value in settings.items() if name in config.model_fields}
    return config(**own) if base is None else base.changed(**own)


# --- progress --------------------------------------------------------------------------------------


def _shows(given: Any) -> Any:
    if isinstance(given, bool) or (callable(given) and not isinstance(given, type)):
        return given
    raise ValueError(given)


ShowProgress = Annotated[
    bool | Progress,
    PlainValidator(_shows),
    Words("True, False or a function of stage, done and total"),
]


@contextmanager
def shown_progress(show: bool | Progress) -> Iterator[Progress]:
    """Open bars where people see them, or nothing, or pass on the caller's own function."""
    if callable(show):
        yield show
    elif show:
        with bars() as progress:
            yield progress
    else:
        yield silent
