"""`report.html`: what a run did, on one page that needs no network: key figures, curves, grids."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import jinja2
import matplotlib
import yaml

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from cluster.files import replacing
from cluster.pictures import before_after
from cluster.rundir import RunDirectory

# Panels of the figure: title, unit, and the metrics in it (those that a run has).
_PANELS = (
    ("Reward of the training samples", "combined reward", ("reward/mean",)),
    ("Agreement, evaluation", "scorer logits", ("eval/train/shapes_agreement", "eval/held_out/shapes_agreement")),
    ("Gold score, evaluation", "share of facts", ("eval/train/shapes_gold", "eval/held_out/shapes_gold")),
    ("Diversity within a prompt", "feature distance", ("eval/train/diversity", "eval/held_out/diversity")),
    ("Distance from the pretrained model", "feature distance", ("eval/train/distance", "eval/held_out/distance")),
    ("Detailed balance", "mean square of scores", ("loss/forward", "loss/reverse", "loss/terminal")),
    ("Reward guidance and flow function", "mean square of scores", ("size/guidance", "size/flow")),
    ("Margin", "nats per dimension", ("margin/mean", "margin/std")),
    ("Implicit accuracy", "share of pairs", ("margin/accuracy",)),
    ("Clipped", "share of transitions", ("clip/winner", "clip/loser")),
    ("KL to the pretrained model, a step", "nats per dimension", ("kl/pretrained",)),
    ("Seconds of an iteration", "s", ("time/sample", "time/learn")),
)

_PAGE = jinja2.Template(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ name }}</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
 table { border-collapse: collapse } td, th { padding: .2em 1em; border-bottom: 1px solid #ddd; text-align: right }
 td:first-child, th:first-child { text-align: left } img { max-width: 100% } pre { background: #f6f6f6; padding: 1em }
</style>
<h1>{{ name }}</h1>
<p>{{ iterations }} iterations of {{ config.objective.name }}, {{ images }} training images.</p>
<h2>Evaluation</h2>
<table><tr><th>metric</th><th>before</th><th>after</th><th>change</th></tr>
{% for row in rows %}<tr><td>{{ row.name }}</td><td>{{ "%.3f"|format(row.before) }}</td>
<td>{{ "%.3f"|format(row.after) }}</td><td>{{ "%+.3f"|format(row.after - row.before) }}</td></tr>
{% endfor %}</table>
<h2>Curves</h2><img alt="curves" src="data:image/png;base64,{{ curves }}">
{% for title, data in grids %}<h2>{{ title }}</h2><img alt="{{ title }}" src="data:image/png;base64,{{ data }}">
{% endfor %}
<h2>Configuration</h2><pre>{{ yaml }}</pre>
</html>""",
    autoescape=True,
)


def write_report(run: RunDirectory) -> Path:
    """Write the page of a run, finished or not; returns its path."""
    text = (run.path / "config.yaml").read_text(encoding="utf-8")
    series = run.metrics()
    evaluated = {name: values for name, values in series.items() if name.startswith("eval/")}
    page = _PAGE.render(
        name=run.path.name,
        iterations=max((iteration for values in series.values() for iteration, _ in values), default=0),
        images=int(sum(value for _, value in series.get("samples", []))),
        config=yaml.safe_load(text),
        rows=[{"name": n.removeprefix("eval/"), "before": v[0][1], "after": v[-1][1]} for n, v in evaluated.items()],
        curves=_encode(_curves(series)),
        grids=[
            (title, _encode(picture))
            for title, split in (("The prompts it trained on, unseen seeds", "train"), ("Held-out prompts", "held_out"))
            if (picture := _before_after(run, split))
        ],
        yaml=text,
    )
    path = run.path / "report.html"
    with replacing(path) as file:
        file.write(page.encode("utf-8", "backslashreplace"))
    return path


def _curves(series: dict[str, list[tuple[int, float]]]) -> bytes:
    panels = [(t, unit, [n for n in names if n in series]) for t, unit, names in _PANELS]
    panels = [panel for panel in panels if panel[2]]
    columns = 2
    rows = max(1, -(-len(panels) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(11, 2.7 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (title, unit, names) in zip(axes.flat, panels, strict=False):
        for name in names:
            iterations, values = zip(*series[name], strict=True)
            axis.plot(iterations, values, marker=".", label=name)
        axis.set(title=title, ylabel=unit, xlabel="iteration")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def _before_after(run: RunDirectory, split: str) -> bytes | None:
    grids = run.grids(split)
    if not grids:
        return None
    sheet = before_after(grids[0], grids[-1])
    run.write_image(f"{split}-before-after", sheet)
    return (run.path / "images" / f"{split}-before-after.png").read_bytes()


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
