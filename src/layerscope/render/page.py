"""A view drawn as one self-contained interactive page that opens no connection."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

import jinja2
from markupsafe import Markup, escape

from layerscope.render import plotly
from layerscope.render.glossary import explained
from layerscope.render.view import Chart, Table, View

LIBRARY: Final = "plotly-cartesian.min.js"


def page(view: View) -> str:
    """Return the whole page as HTML."""
    return _template("page.html.j2").render(
        view=view,
        library=Markup(library()),  # noqa: S704 - our own file, not the user's words
        drawings=_embedded([_drawing(chart) for chart in view.charts]),
        hidden=_embedded(view.hidden),
    )


def card(view: View) -> str:
    """Return the answer and the first tables as HTML, for a cell of a notebook."""
    shown = (each for each in view.sections if not (each.page or each.more))
    tables = [part for each in shown for part in each.parts if isinstance(part, Table)]
    return _template("card.html.j2").render(view=view, tables=tables)


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("layerscope.render"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["explained"] = explained
    environment.filters["slug"] = slug
    environment.tests["part"] = lambda part, name: type(part).__name__ == name
    return environment.get_template(name)


def slug(title: str) -> str:
    """Return the id of a section by its title.

    >>> slug("Dynamics: what each block does")
    'dynamics-what-each-block-does'
    """
    return "-".join(re.findall(r"\w+", title.lower()))


def library() -> str:
    """Return plotly.js's cartesian bundle (MIT; its license is in the same folder)."""
    return (files("layerscope.render") / "templates" / LIBRARY).read_text(encoding="utf-8")


def _drawing(chart: Chart) -> dict[str, Any]:
    traces, layout = plotly.parts(chart.drawing)
    return {"id": chart.id, "data": [_escaped(trace) for trace in traces], "layout": layout}


def _escaped(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trace whose names are text: plotly reads them as HTML."""
    found = dict(trace)
    for key in ("name", "x", "y"):
        if isinstance(found.get(key), str):
            found[key] = str(escape(found[key]))
        elif isinstance(found.get(key), list):
            found[key] = [str(escape(v)) if isinstance(v, str) else v for v in found[key]]
    return found


def _embedded(value: object) -> Markup:
    """Return JSON that no content can end: inside a script element "<" must not appear."""
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
    return Markup(text)  # noqa: S704 - escaped in the line above
