"""Charts are SVG that says what it was given: points where they belong, names as text, no name over another."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.pages.charts import HEIGHT, WIDTH, Line, curves, spans


def drawn(lines: list[Line], **how: object) -> ET.Element:
    return ET.fromstring(str(curves(lines, "a title", **how)))  # type: ignore[arg-type]


def points(chart: ET.Element, kind: str = "polyline") -> list[list[tuple[float, float]]]:
    found = chart.findall(kind)
    return [[tuple(map(float, p.split(","))) for p in line.get("points", "").split()] for line in found]  # type: ignore[misc]


def test_values_can_be_read_back_from_the_curve() -> None:
    values = [(0.0, 1.0), (5.0, 3.0), (10.0, 2.0)]
    chart = drawn([Line("a", values)])
    x0, x1, left, right = map(float, chart.get("data-x", "").split())
    y0, y1, bottom, top, log = map(float, chart.get("data-y", "").split())
    assert log == 0
    for (px, py), (x, y) in zip(points(chart)[0], values, strict=True):
        assert x0 + (px - left) / (right - left) * (x1 - x0) == pytest.approx(x, abs=0.02)
        assert y0 + (py - bottom) / (top - bottom) * (y1 - y0) == pytest.approx(y, abs=0.01)


def test_values_over_many_orders_are_drawn_on_a_logarithmic_axis() -> None:
    chart = drawn([Line("a", [(0, 1e-4), (1, 1.0), (2, 1e4)])])
    assert chart.get("data-y", "").endswith(" 1")
    heights = [y for _, y in points(chart)[0]]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)


def test_an_axis_is_linear_where_it_may_not_be_logarithmic_or_a_few_values_alone_are_small() -> None:
    values = [(0.0, 1e-8), *((float(x), 0.1 * x) for x in range(1, 20))]
    assert drawn([Line("a", values)]).get("data-y", "").endswith(" 0")
    assert drawn([Line("a", values[:4])]).get("data-y", "").endswith(" 1")
    assert drawn([Line("a", values[:4])], log=False).get("data-y", "").endswith(" 0")


def test_a_long_curve_keeps_its_ends_and_its_extremes() -> None:
    values = [(float(x), math.sin(x / 90)) for x in range(5000)]
    values[1234], values[4321] = (1234.0, 9.0), (4321.0, -9.0)
    whole, few = drawn([Line("a", [(0, -9), (4999, 9)])]), drawn([Line("a", values)])
    found = points(few)[0]
    assert len(found) <= 300
    assert min(y for _, y in found) == min(y for _, y in points(whole)[0])
    assert max(y for _, y in found) == max(y for _, y in points(whole)[0])
    assert (found[0][0], found[-1][0]) == (points(whole)[0][0][0], points(whole)[0][-1][0])


def test_a_band_is_drawn_behind_its_curve_and_what_is_not_finite_nowhere() -> None:
    band = [(0, 0.5, 1.5), (1, math.nan, math.nan), (2, 1.0, 3.0)]
    chart = drawn([Line("a", [(0, 1.0), (1, math.nan), (2, 2.0)], band)])
    kinds = [child.tag for child in chart if child.tag in ("polygon", "polyline")]
    assert kinds == ["polygon", "polyline"]
    assert (len(points(chart)[0]), len(points(chart, "polygon")[0])) == (2, 4)
    assert "nan" not in ET.tostring(chart, encoding="unicode")


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=6), st.booleans())
@settings(max_examples=60)
def test_whatever_was_measured_can_be_drawn(values: list[tuple[float, float]], dots: bool) -> None:
    chart = drawn([Line("a", values)], dots=dots)
    text = ET.tostring(chart, encoding="unicode")
    assert "nan" not in text.replace("a title", "")
    assert "inf" not in text


@pytest.mark.parametrize("name", ["<script>x</script>", '"><img src=x>', "a&b", "\x1b[31m", "猫" * 50])
def test_names_are_text(name: str) -> None:
    chart = drawn([Line(name, [(0, 0), (1, 1)])], unit=name, dots=True)
    said = "".join(chart.itertext())
    assert name[:5].replace("\x1b", "\\x1b")[:5] in said
    assert {child.tag for child in chart.iter()} <= {"svg", "line", "text", "title", "polyline", "circle"}


def test_no_name_of_a_front_covers_another() -> None:
    """Seven runs that end in nearly the same place."""
    lines = [Line(f"residual_nabla_db, beta {n}", [(0, 0), (1 + n / 100, 1 + n / 300)], colour=n) for n in range(7)]
    names = [text for text in drawn(lines, dots=True).iter("text") if (text.get("class") or "").startswith("name")]
    places = sorted(float(text.get("y", "")) for text in names)
    assert len(places) == 7
    assert all(b - a >= 11 for a, b in itertools.pairwise(places))
    assert all(0 < y < HEIGHT for y in places)
    assert all(0 <= float(text.get("x", "")) < WIDTH for text in names)


def test_spans_are_as_long_as_the_work() -> None:
    chart = ET.fromstring(str(spans([("a", [(0.0, 5.0, "one", 0), (5.0, 2.5, "two", 1)]), ("b<", [])], 10.0)))
    first, second = chart.findall("rect")
    assert float(first.get("width", "")) == pytest.approx(2 * float(second.get("width", "")), abs=0.1)
    assert float(second.get("x", "")) == pytest.approx(
        float(first.get("x", "")) + float(first.get("width", "")), abs=0.1
    )
    assert first[0].text == "a: one, 5 s from 0 s"
    assert "b<" in "".join(chart.itertext())
