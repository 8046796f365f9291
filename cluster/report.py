"""`report.html`: what a run did, on one page that needs no network: key figures, curves, grids.

    python -m cluster.report RUN [RUN ...]

writes the pages of runs, whether they are finished, under way or broken: what is there is shown.
"""

from __future__ import annotations

import base64
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jinja2
import yaml
from PIL import Image

from cluster.arguments import Parser
from cluster.errors import WriteError
from cluster.records.curves import Series, draw
from cluster.records.files import replacing
from cluster.records.pictures import before_after
from cluster.records.reading import CONFIG, Records
from cluster.text import counted, figure, shown

log = logging.getLogger(__name__)

_SPLITS = {
    "train": "The prompts it trained on, unseen seeds",
    "held_out": "Held-out prompts",
    "train_everywhere": "The same prompts with the adapter in every step, as an exported one",
}

_PAGE = jinja2.Template(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ name }}</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
 table { border-collapse: collapse } td, th { padding: .2em 1em; border-bottom: 1px solid #ddd; text-align: right }
 td:first-child, th:first-child { text-align: left } img { max-width: 100% } h1, td { overflow-wrap: anywhere }
 pre { background: #f6f6f6; padding: 1em; white-space: pre-wrap; overflow-wrap: anywhere }
</style>
<h1>{{ name }}</h1>
<p>{{ summary }}</p>
<h2>Evaluation</h2>
{% if rows %}<table><tr><th>metric</th><th>before</th><th>after</th><th>change</th></tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>{% else %}<p>No evaluation is on record yet.</p>{% endif %}
<h2>Curves</h2>
{% if curves %}<img alt="curves" src="data:image/png;base64,{{ curves }}">
{% else %}<p>No metrics are on record yet.</p>{% endif %}
{% for title, data in grids %}<h2>{{ title }}</h2><img alt="{{ title }}" src="data:image/png;base64,{{ data }}">
{% endfor %}
{% if not grids %}<h2>Pictures</h2><p>No pictures are on record yet.</p>{% endif %}
<h2>Configuration</h2><pre>{{ yaml }}</pre>
</html>""",
    autoescape=True,
)


def write_report(run: Records) -> Path:
    """Write the page of a run, finished or not; returns its path."""
    text = (run.path / CONFIG).read_text(encoding="utf-8", errors="backslashreplace")
    series = run.metrics()
    curves = draw(series)
    page = _PAGE.render(
        name=shown(run.path.name),
        summary=_summary(text, series),
        rows=_rows(series),
        curves=curves and _encode(curves),
        grids=[(_SPLITS.get(split, split), _encode(sheet)) for split, sheet in _sheets(run)],
        yaml=text,
    )
    path = run.path / "report.html"
    with replacing(path) as file:
        file.write(page.encode("utf-8", "backslashreplace"))
    return path


def _summary(text: str, series: Series) -> str:
    done = max((iteration for values in series.values() for iteration, _ in values), default=0)
    images = int(sum(value for _, value in series.get("samples", [])))
    try:
        config = yaml.safe_load(text)
        asked = config["iterations"]
        count = counted(done, "iteration") if done == asked else f"{done} of {counted(asked, 'iteration')}"
        rewards = ", ".join(
            f"{name} (weight {reward['weight']:g})" if reward["weight"] else f"{name} (watched)"
            for name, reward in config["rewards"].items()
        )
        method = f" of {config['objective']['name']}"
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        what = f"{counted(done, 'iteration')}, {counted(images, 'training image')}"
        return f"{what}; config.yaml is not what the run saved."
    return shown(f"{count}{method}, {counted(images, 'training image')}. Rewards: {rewards}.")


def _rows(series: Series) -> list[tuple[str, str, str, str]]:
    """Name, first value, last value and their difference of every figure of the evaluation, split by split."""
    names = [name for name in series if name.startswith("eval/")]
    splits = list(dict.fromkeys(name.split("/")[1] for name in names))
    rows = []
    for name in sorted(names, key=lambda name: splits.index(name.split("/")[1])):
        before, after = series[name][0][1], series[name][-1][1]
        change = f"{after - before:+.3f}" if figure(after) == f"{after:.3f}" else f"{after - before:+.3g}"
        rows.append((shown(name.removeprefix("eval/")), figure(before), figure(after), change))
    return rows


def _sheets(run: Records) -> list[tuple[str, bytes]]:
    """The pictures of each split: its first grid beside its last one, or the only one; torn files are passed over."""
    grids: dict[str, dict[int, Path]] = {split: {} for split in _SPLITS}
    for path in (run.path / "images").glob("*-*.png"):
        split, _, number = path.stem.rpartition("-")
        if number.isdecimal():
            grids.setdefault(split, {})[int(number)] = path
    sheets = []
    for split, by_iteration in grids.items():
        paths = [by_iteration[iteration] for iteration in sorted(by_iteration)]
        first = _first_whole(paths)
        last = first and _first_whole(paths[::-1])
        if first and last:
            path = first[0]
            if path != last[0]:
                path = run.path / "images" / f"{split}-before-after.png"
                with replacing(path) as file:
                    before_after(first[1], last[1]).save(file, format="PNG")
            sheets.append((split, path.read_bytes()))
    return sheets


def _first_whole(paths: Sequence[Path]) -> tuple[Path, Image.Image] | None:
    for path in paths:
        try:
            with Image.open(path) as image:
                return path, image.copy()
        except (OSError, SyntaxError, ValueError) as error:
            log.warning("%s cannot be read and is not in the report (%s).", path, error)
    return None


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages that the command line names; returns the exit status."""
    parser = Parser("cluster.report", "Write report.html of runs, finished, under way or broken.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    for path in parser.parse_args(arguments).runs:
        if not os.path.isfile(path / CONFIG):
            print(f"error: There is no run in {shown(str(path))} (no {CONFIG}).", file=sys.stderr)
            return 1
        try:
            print(write_report(Records(path)))
        except WriteError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
