"""A page in one file: template, style and script together, and nothing that is fetched from anywhere."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from cluster.text import figure, shown

_TEMPLATES = Path(__file__).parent / "templates"
_HEAD = 200  # bytes of a page, in which it says what it is


def render(template: str, **values: Any) -> bytes:
    """A page as UTF-8; whatever others wrote is text on it, with control characters written out.

    Args:
        template: Its name.
        values: What the template asks for.
    """
    text = _environment().get_template(template).render(**values, generator=_generator(template))
    return text.encode("utf-8", "backslashreplace")


def is_page(path: Path, template: str) -> bool:
    """Whether a file is a page that was rendered from a template, by what its head says."""
    try:
        with path.open("rb") as file:
            return f'<meta name="generator" content="{_generator(template)}">'.encode() in file.read(_HEAD)
    except OSError:
        return False


def _generator(template: str) -> str:
    return f"reinoise {template}"


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    made.globals |= {name.replace(".", "_"): _file(name) for name in ("page.css", "page.js")}
    made.filters |= {"shown": lambda text: shown(str(text)), "figure": figure, "data": _data, "setting": _setting}
    made.filters |= {"date": _date, "machine": _machine, "number": _number, "metric": _metric}
    return made


def _file(name: str) -> Markup:
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def _data(value: Any) -> Markup:
    """JSON within a script element, which no text in it can end."""
    text = json.dumps(value)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _setting(value: Any) -> str:
    """A setting's value as a config file has it."""
    return shown(value if isinstance(value, str) else json.dumps(value, default=str))


def _metric(name: str) -> Markup:
    """A metric's name, which may be broken where its parts end."""
    return Markup(re.sub("([/_])", r"\1<wbr>", str(escape(shown(name)))))


def _number(value: float) -> str:
    """A figure, or a count as one."""
    return f"{value:,.0f}" if float(value).is_integer() and (value == 0 or value >= 100) else figure(value)


def _date(seconds: Any) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))
    except (TypeError, ValueError, OverflowError, OSError):
        return "at an unknown time"


def _machine(machine: Mapping[str, Any]) -> str:
    """A machine in words."""
    memory = machine.get("memory")
    words = [
        machine.get("processor"),
        f"{machine['cpus']:g} cores" if isinstance(machine.get("cpus"), int | float) else None,
        f"{memory / 1e9:.0f} GB" if isinstance(memory, int | float) else None,
        *(machine.get("gpus") or []),
        machine.get("system"),
    ]
    return shown(", ".join(str(word) for word in words if word))
