"""Error types, and errors that several modules raise, such as "did you mean" for an unknown name.

A message is one sentence: what was expected, what came, what to do. The type decides the exit code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_LISTED = 20


class LayerscopeError(Exception):
    """Base of all errors of layerscope; `exit_code` is the exit code of the command."""

    exit_code = 1


class InputError(LayerscopeError):
    """The input cannot be used: a name, a file, an option, the texts."""

    exit_code = 2


class RunError(LayerscopeError):
    """The input was fine but the work failed: a model that returns NaN, a full disk."""

    exit_code = 1


class NonFiniteError(RunError):
    """States or vectors hold NaN or infinity."""


class UndefinedError(LayerscopeError):
    """A measure has no value on this input; the message is stored in the record as the reason."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for an unknown name, with the closest known names as suggestions.

    >>> unknown_name("measure", "curvatur", ["curvature", "lidar"]).args[0]
    "unknown measure 'curvatur'; did you mean 'curvature'? Known: curvature, lidar."
    """
    names = [str(each) for each in known]  # repr of an enum member would show its class
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(match) for match in close)}? " if close else ""
    listed = f"Known: {', '.join(names)}"
    if len(names) > _LISTED:  # a list longer than a screen would hide the hint
        nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
        listed = (
            f"{len(names)} are known"
            if close
            else f"none of the {len(names)} known is close, the nearest are "
            f"{', '.join(map(repr, nearest))}"
        )
    return InputError(f"unknown {kind} {name!r}; {hint}{listed}.")


def few_models(models: Sequence[str]) -> InputError:
    """Return the error for a ranking of fewer than two models.

    >>> few_models([]).args[0]
    'expected at least 2 models to rank, got none; give more, or measure one with layerscope scan.'
    """
    got = f"only {models[0]!r}" if models else "none"
    return InputError(
        f"expected at least 2 models to rank, got {got}; give more, or measure one with layerscope scan."
    )
