"""What the HTML pages have in common: templates (escaping on), styles, scripts, plotly.

A page is one file: everything is inside of it, and its content security policy (templates/head.html) forbids every
connection and every script that is not ours.
"""

from __future__ import annotations

import importlib.resources
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from flowprof.viewers import quantity
from flowprof.viewers.packing import compress

HERE = Path(__file__).parent
TIMELINE = ("words.js", "lanes.js", "lane_drawing.js", "timeline.js")  # in the order in which they need each other


def environment() -> jinja2.Environment:
    """With the filters that every page uses; a page adds its own."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        clean=quantity.clean,
        count=quantity.count,
        dur=quantity.duration,
        percent=quantity.percent,
        size=quantity.size,
        many=quantity.many,
        rate=quantity.rate,
    )
    return made


def assets(styles: Sequence[str], scripts: Sequence[str]) -> dict[str, Any]:
    """Variables of templates/head.html and of the scripts at a page's end."""
    return {
        "nonce": secrets.token_urlsafe(16),
        "style": "\n".join((HERE / "templates" / name).read_text(encoding="utf-8") for name in styles),
        "script": "\n".join((HERE / "js" / name).read_text(encoding="utf-8") for name in scripts),
        "plotly": _plotly(),
    }


def _plotly() -> str:
    """plotly's script, compressed; "" when this installation lacks it: the page then has no charts."""
    try:
        script = importlib.resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    except (ModuleNotFoundError, OSError):
        return ""
    return compress(script)
