"""What can go wrong, as types, and "did you mean" for a name nobody knows.

A user meets one sentence: what was expected, what came, what to do. The type decides the exit code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 20


class LayerscopeError(Exception):
    """Anything that layerscope itself refuses or fails at; `exit_code` is the command's."""

    exit_code = 1


class InputError(LayerscopeError):
    """What the user gave cannot be used: a name, a file, an option, the texts."""

    exit_code = 2


class RunError(LayerscopeError):
    """The input was fine but the work failed: a model that returns NaN, a full disk."""

    exit_code = 1


class NonFiniteError(RunError):
    """States or vectors hold NaN or infinity."""


class UndefinedError(LayerscopeError):
    """A measure has no value on this input; the message is the reason that the record keeps."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not among the known ones, with the closest offered.

    >>> unknown_name("measure", "curvatur", ["curvature", "lidar"]).args[0]
    "unknown measure 'curvatur'; did you mean 'curvature'? Known: curvature, lidar."
    """
    names = [str(each) for each in known]  # a member of an enum would show its class
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(match) for match in close)}? " if close else ""
    listed = f"Known: {', '.join(names)}"
    if len(names) > _LISTED:  # past a screenful the list hides the hint
        nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
        listed = (
            f"{len(names)} are known"
            if close
            else f"none of the {len(names)} known is close, the nearest are "
            f"{', '.join(map(repr, nearest))}"
        )
    return InputError(f"unknown {kind} {name!r}; {hint}{listed}.")
