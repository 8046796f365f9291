"""Charts as inline SVG: curves with bands, points with names that keep apart, spans of time. Colours are the page's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup

from cluster.text import figure, shown

WIDTH, HEIGHT = 380, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 12, 34
COLOURS = 8  # that the page has
_POINTS = 240  # of a curve: what a panel's width can show
_LARGEST = 1e100  # value that is drawn
_LOG = 1e3  # largest value over smallest from which an axis is logarithmic

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A curve."""

    label: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()  # x, lower and upper end
    colour: int = 0
    faint: bool = False  # stands behind the others and has no name
    labels: Sequence[str] = ()  # of single points
    marked: Sequence[bool] = ()  # single points that stand out


class Scale(NamedTuple):
    """Where values are on an axis, in pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        """The place of a value in pixels."""
        low, high, value = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def curves(
    lines: Sequence[Line], title: str, x: str = "iteration", unit: str = "", dots: bool = False, log: bool = True
) -> Markup:
    """A chart of curves; points that are not finite are gaps in none of them.

    Args:
        lines: What is drawn, the last on top.
        title: For those who hear the page.
        x: What is on the horizontal axis.
        unit: What is on the vertical axis.
        dots: Whether single points are marked however many there are, with their labels (a Pareto front).
        log: Whether the vertical axis is logarithmic where positive values span decades.
    """
    drawn = [(line, _thinned(list(_drawable(line.points)))) for line in lines]
    xs = [p[0] for _, points in drawn for p in points]
    bands = [[(a, *ends) for a, *ends in _drawable(line.band)] for line in lines]
    ys = [p[1] for _, points in drawn for p in points] + [end for band in bands for _, *ends in band for end in ends]
    across = _scale(xs, _LEFT, WIDTH - _RIGHT, False, pad=0.04 if dots else 0.0)
    up = _scale(ys, HEIGHT - _BOTTOM, _TOP, log, pad=0.06)
    marks = [_axes(across, up, x, unit)]
    for line, band in zip(lines, bands, strict=True):
        if band:
            band = band[:: max(1, len(band) // _POINTS)]
            edge = [(a, high) for a, _, high in band] + [(a, low) for a, low, _ in reversed(band)]
            marks.append(Markup('<polygon class="band c{}" points="{}"/>').format(line.colour, _path(edge, across, up)))
    for line, points in drawn:
        kind = Markup("c{}{}").format(line.colour, " faint" if line.faint else "")
        name = "" if line.faint else Markup(' data-name="{}"').format(shown(line.label))
        if len(points) > 1:
            marks.append(Markup('<polyline class="{}" points="{}"{}/>').format(kind, _path(points, across, up), name))
        if dots or len(points) <= 30:
            marks += [
                Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
                    kind,
                    across(a),
                    up(b),
                    5.2 if place < len(line.marked) and line.marked[place] else 2.8,
                    _said(line, place, (a, b), unit),
                )
                for place, (a, b) in enumerate(points)
            ]
    if dots:
        marks += _names([(line, points) for line, points in drawn if points and not line.faint], across, up)
    facts = Markup(' data-x="{} {} {} {}" data-y="{} {} {} {} {}"').format(*across[:4], *up[:4], int(up.log))
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"{}>{}</svg>').format(
        WIDTH, HEIGHT, shown(title), "" if dots else facts, Markup("").join(marks)
    )


def spans(rows: Sequence[tuple[str, Sequence[tuple[float, float, str, int]]]], seconds: float) -> Markup:
    """A chart of who worked when.

    Args:
        rows: Of each worker its name and its pieces of work: start and length in seconds, what it was, colour.
        seconds: Length of the axis.
    """
    width, high, left = 900, 24, 150
    height = high * len(rows) + 30
    scale = Scale(0.0, max(seconds, 1e-9), left, width - 12, False)
    marks = []
    for tick in _ticks(0.0, scale.high, 8):
        marks.append(
            Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="{1}"/>').format(scale(tick), height - 26)
        )
        marks.append(_text(scale(tick), height - 10, f"{tick:g} s", "middle"))
    for place, (who, pieces) in enumerate(rows):
        top = place * high + 4
        marks.append(_text(left - 8, top + 12, _cut(who, 22), "end", who))
        for start, length, what, colour in pieces:
            marks.append(
                Markup(
                    '<rect class="c{}" x="{:.2f}" y="{}" width="{:.2f}" height="{}"><title>{}</title></rect>'
                ).format(
                    colour,
                    scale(start),
                    top,
                    max(0.6, scale(start + length) - scale(start)),
                    high - 7,
                    shown(f"{who}: {what}, {length:.3g} s from {start:.3g} s"),
                )
            )
    return Markup('<svg class="spans" viewBox="0 0 {} {}" role="img" aria-label="who worked when">{}</svg>').format(
        width, height, Markup("").join(marks)
    )


def _axes(across: Scale, up: Scale, x: str, unit: str) -> Markup:
    marks = []
    for tick in _powers(up) if up.log else _ticks(up.low, up.high, 5):
        y = up(tick)
        marks.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(_LEFT, WIDTH - _RIGHT, y, y)
        )
        marks.append(_text(_LEFT - 6, y + 3.5, _number(tick), "end"))
    for tick in _ticks(across.low, across.high, 6):
        marks.append(_text(across(tick), HEIGHT - _BOTTOM + 14, _number(tick), "middle"))
    marks.append(_text(WIDTH - _RIGHT, HEIGHT - 3, x, "end", kind="unit"))
    marks.append(_text(4, HEIGHT - 3, unit, "start", kind="unit"))
    return Markup("").join(marks)


def _text(x: float, y: float, text: str, anchor: str, title: str = "", kind: str = "") -> Markup:
    whole = Markup("<title>{}</title>").format(shown(title)) if title else ""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}{}</text>').format(
        kind, x, y, anchor, shown(text), whole
    )


def _names(named: Sequence[tuple[Line, Sequence[Point]]], across: Scale, up: Scale) -> Iterator[Markup]:
    """The name of each curve beside its last point, moved up or down until it covers neither points nor names."""
    taken = [(across(x) - 5, across(x) + 5, up(y) + 4) for _, points in named for x, y in points]  # left, right, y
    for line, points in sorted(named, key=lambda of: up(of[1][-1][1])):
        x, y = across(points[-1][0]), up(points[-1][1])
        text = _cut(line.label, 30)
        length = 6.8 * len(text)
        at_right = x + 9 + length < WIDTH
        left = x + 9 if at_right else max(2.0, x - 9 - length)

        def free(at: float, left: float = left, right: float = left + length) -> bool:
            inside = _TOP - 2 <= at <= HEIGHT - _BOTTOM
            return inside and all(abs(at - b) >= 11 or right < a or left > c for a, c, b in taken)

        places = [y + 4 + sign * step for step in range(0, 150, 2) for sign in (1, -1)]
        place = next((at for at in places if free(at)), y + 4)
        taken.append((left, left + length, place))
        yield Markup('<text class="name c{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
            line.colour, left if at_right else left + length, place, "start" if at_right else "end", shown(text)
        )


def _said(line: Line, place: int, point: Point, unit: str) -> str:
    own = line.labels[place] if place < len(line.labels) else ""
    return shown(f"{line.label}{', ' if own else ''}{own}: {figure(point[1])} at {_number(point[0])}")


def _path(points: Iterable[Point], across: Scale, up: Scale) -> str:
    return " ".join(f"{across(x):.1f},{up(max(y, up.low) if up.log else y):.1f}" for x, y in points)


def _drawable(points: Iterable[tuple[float, ...]]) -> Iterator[Any]:
    """Points that have a place: finite, and within what differences of floats can tell."""
    for point in points:
        if all(abs(value) < _LARGEST for value in point):
            yield tuple(0.0 if abs(value) < 1 / _LARGEST else value for value in point)


def _thinned(points: list[Point]) -> list[Point]:
    """A curve with no more points than can be seen: of each stretch the first, the least and the largest."""
    if len(points) <= _POINTS:
        return points
    size = -(-len(points) * 3 // _POINTS)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        chosen = {0, min(range(len(part)), key=lambda i: part[i][1]), max(range(len(part)), key=lambda i: part[i][1])}
        kept += [part[i] for i in sorted(chosen)]
    return [*kept, points[-1]] if kept[-1] != points[-1] else kept


def _scale(values: Sequence[float], start: float, end: float, may_log: bool, pad: float) -> Scale:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    log = may_log and low > 0 and high / sorted(values)[len(values) // 10] > _LOG  # a few by rounding do not count
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    if log:
        return Scale(low / 1.3, high * 1.3, start, end, True)
    room = pad * (high - low)
    return Scale(low - room, high + room, start, end, False)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * k, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _powers(scale: Scale) -> list[float]:
    first, last = math.ceil(math.log10(scale.low)), math.floor(math.log10(scale.high))
    return [10.0**power for power in range(first, last + 1, -(-(last - first + 1) // 6))]


def _number(value: float) -> str:
    if value == 0:
        return "0"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.1e}".replace("e-0", "e-")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
