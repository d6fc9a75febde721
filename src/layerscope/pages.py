"""Self-contained pages: our drawing library and the data inside, and no request ever made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

import jinja2
from markupsafe import Markup

LIBRARY: Final = "plotly-cartesian.min.js"


def render(template: str, drawings: Sequence[dict[str, Any]], **values: Any) -> str:
    """Return a page.

    Args:
        template: name of a file in `templates`.
        drawings: what plotly draws, each with id (of an element of the template), data and layout.
        values: what else the template asks for; one that it lacks is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("layerscope"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(
        library=Markup(library()),  # noqa: S704 - our own file, not the user's words
        drawings=_embedded(drawings),
        **values,
    )


def library() -> str:
    """Return plotly.js's cartesian bundle (MIT; its license lies beside it)."""
    return (files("layerscope") / "templates" / LIBRARY).read_text(encoding="utf-8")


def _embedded(value: object) -> Markup:
    """Return JSON that no content can end: inside a script element "<" must not appear."""
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
    return Markup(text)  # noqa: S704 - escaped in the line above
