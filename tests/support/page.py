"""A page's file as a reader without a browser sees it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Page(HTMLParser):
    """Table rows, headings, attributes, text, and the data that the script gets."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.attributes: list[tuple[str, str, str | None]] = []  # tag, name, value
        self.tags: list[str] = []
        self.text, self.sprites = "", dict[str, Any]()
        self._inside: list[str] = []
        self._data = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.sprites = json.loads(self._data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self._inside.append("data" if dict(attrs).get("id") == "sprites" else tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside or "data" in self._inside:
            while self._inside and self._inside.pop() not in (tag, "data"):
                pass

    def handle_data(self, data: str) -> None:
        inside = self._inside[-1] if self._inside else ""
        if inside == "data":
            self._data += data
        elif inside not in ("script", "style"):
            self.text += data
            if {"td", "th"} & set(self._inside) and self.rows:
                self.rows[-1][-1] += data

    @property
    def cells(self) -> list[list[str]]:
        """The rows, with what is blank about them taken away."""
        return [[" ".join(cell.split()) for cell in row] for row in self.rows]


def refers_outside(page: Page) -> list[tuple[str, str, str | None]]:
    """What a page would fetch from elsewhere."""
    named = ("src", "href", "srcset", "action", "poster", "data", "xlink:href")
    found = [of for of in page.attributes if of[1] in named and not (of[2] or "").startswith("data:")]
    return found + [("", "css", word) for word in ("url(", "@import") if word in page.source]
