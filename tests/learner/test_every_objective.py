"""What every objective has: a gradient that is its loss's, all of its state in checkpoints, ranks, a page, a config.

An objective that lacks one of these fails here; `tests/learner/test_ranks.py` holds its cases to one rank's gradient.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

import learner.coupled
import learner.decoupled
from actors.config import PolicyConfig
from cluster.config import load_words
from learner.batch import Batch
from learner.learner import Learner
from learner.objectives import ObjectiveConfig
from learner.ranks import ALONE
from tests.learner.rank_process import CASES, Curved, Start, begun, draw
from tests.support.documented import undocumented

ROOT = Path(__file__).parents[2]
NAMES = [config.model_fields["name"].default for config in get_args(get_args(ObjectiveConfig)[0])]
OF_EACH = [next(case for case, settings in CASES.items() if settings["name"] == name) for name in NAMES]


@pytest.fixture
def start(tiny_pipeline: Path) -> Start:
    return Start(PolicyConfig(model=str(tiny_pipeline), device="cpu", steps=5, lora_rank=2, lora_alpha=2))


class Frozen:
    """Holds what a loss takes for constants where it first had them: what is detached, a gradient, a reward's answer.

    So differences of the loss are those of the function whose gradient it says it has.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._kept: list[Tensor] | None = None
        self._answers: Iterator[Any] = iter(())
        monkeypatch.setattr(torch.Tensor, "detach", self._held(torch.Tensor.detach))
        monkeypatch.setattr(torch.autograd, "grad", self._held(torch.autograd.grad))
        monkeypatch.setattr(Curved, "score", self._held(Curved.score))
        self._holds = False

    def _held(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            if not self._holds:
                return function(*arguments, **settings)
            if self._kept is not None:
                return next(self._answers)
            self._holds = False  # what a gradient detaches on its way, as checkpointing does, is held with it
            answer = function(*arguments, **settings)
            self._holds = True
            self._seen.append(answer)
            return answer

        return call

    @contextmanager
    def holding(self) -> Iterator[None]:
        self._holds, self._seen, self._answers = True, list[Any](), iter(self._kept or ())
        yield
        self._holds = False
        self._kept = self._kept or self._seen


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_loss_in_float64(start: Start, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Along a random direction, against a central difference of what goes the way of a training run."""
    made, policy = start.learner(case), start.policy
    batch, part = begun(made, policy)
    plain = torch.Tensor.float
    monkeypatch.setattr(
        torch.Tensor, "float", lambda values: values if values.dtype == torch.float64 else plain(values)
    )
    family = policy._family
    for network in (policy.network, family._autoencoder._network, family._pipeline.text_encoder):
        network.double()
    policy._embeddings.clear()
    policy.__dict__.pop("_unprompted", None)  # of another precision
    for module in made._objective.modules.values():
        module.network.double()
    batch = in_double(batch)
    total = counted(monkeypatch)
    frozen = Frozen(monkeypatch)
    torch.set_default_dtype(torch.float64)
    try:
        parameters = made._everything

        def loss() -> float:
            total.clear()
            with frozen.holding():
                made._objective.backward(policy, batch, part, 4, ALONE)
            return sum(total)

        for parameter in parameters:
            parameter.grad = None
        loss()
        gradient = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        torch.manual_seed(0)
        direction = [torch.randn(p.shape) for p in parameters]
        slope = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
        size, values = 1e-6, []
        for step in (size, -2 * size):  # to one side and to the other
            with torch.no_grad():
                for parameter, along in zip(parameters, direction, strict=True):
                    parameter += step * along
            values.append(loss())
        assert slope == pytest.approx((values[0] - values[1]) / (2 * size), rel=1e-5, abs=1e-8)
        assert abs(slope) > 1e-8
    finally:
        torch.set_default_dtype(torch.float32)


def in_double(batch: Batch) -> Batch:
    tensors = {each.name: getattr(batch, each.name) for each in fields(batch)}
    return replace(
        batch, **{n: v.double() for n, v in tensors.items() if isinstance(v, Tensor) and v.is_floating_point()}
    )


def counted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The values of all losses whose gradient is added up."""
    total: list[float] = []
    once, coupled = learner.decoupled.accumulate, learner.coupled.backward_coupled

    def accumulate(outputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        total.append(sum(output.item() for output in outputs))
        once(outputs, gradients)

    def backward_coupled(items: int, values: int, evaluate: Any, loss: Any, **settings: Any) -> dict[str, float]:
        def counting(table: Tensor) -> tuple[Tensor, dict[str, float]]:
            value, metrics = loss(table)
            total.append(value.item())
            return value, metrics

        return coupled(items, values, evaluate, counting, **settings)

    monkeypatch.setattr("learner.decoupled.accumulate", accumulate)
    for module in ("learner.likelihood", "learner.objectives.dgpo", "learner.objectives.kto"):
        monkeypatch.setattr(f"{module}.backward_coupled", backward_coupled)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("case", OF_EACH)
def test_a_checkpoint_in_mid_run_has_all_that_an_objective_keeps(start: Start, case: str, tmp_path: Path) -> None:
    """Buffers, companions, trailing adapters, counters: the run goes on bit for bit."""

    def make() -> Learner:
        return start.learner(case, lr=1e-3, ema_decay=0.5, ratio_tolerance=1e9)  # the batches are older

    def all_of(made: Learner) -> dict[str, Any]:
        adapters = {name: start.policy.weights(name)[0].tolist() for name in ("policy", *start.policy.snapshots)}
        kept = {"objective": made._objective.state_dict(), "optimizer": made.optimizer.state_dict()}
        modules = {name: module.state_dict() for name, module in made._objective.modules.items()}
        return {"adapters": adapters, "modules": modules, "version": made.version, **kept}

    straight = make()
    batches = [draw(start.policy, iteration) for iteration in range(4)]
    for batch in batches[:2]:
        straight.step(batch)
    (tmp_path / "saved").mkdir()
    straight.save(tmp_path / "saved")
    of_straight = [straight.step(batch).metrics for batch in batches[2:]]
    expected = all_of(straight)
    resumed = make()
    resumed.step(batches[3])  # nothing of what it has done before may be left
    resumed.restore(tmp_path / "saved")
    equal([resumed.step(batch).metrics for batch in batches[2:]], of_straight)
    equal(all_of(resumed), expected)


def equal(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            equal(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            equal(one, other)
    elif isinstance(expected, Tensor):
        assert torch.equal(found, expected)
    elif expected == expected:
        assert found == expected
    else:  # NaN, as the deviation of one pair is
        assert found != found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_metric_of_an_update_is_documented(start: Start, case: str) -> None:
    """On the second batch, so that what needs an earlier one is there too; `docs/metrics.md` has a row for each."""
    made = start.learner(case, ratio_tolerance=1e9)
    for iteration in range(2):
        found = made.step(draw(start.policy, iteration)).metrics
    assert undocumented(found) == []
    assert len(found) > 5


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case of every kind above and of ranks, a page, its line in the index, and a command that trains with it."""
    monkeypatch.chdir(ROOT)
    assert name in {settings["name"] for settings in CASES.values()}
    page = ROOT / "docs" / "methods" / f"{name}.md"
    assert page.is_file(), "docs/methods has no page"
    text = page.read_text()
    for section in ("## Loss", "## Needs", "## Cost", "## Metrics", "## Command", "## Known failures"):
        assert section in text, section
    assert f"](methods/{name}.md)" in (ROOT / "docs" / "methods.md").read_text()
    command = re.search(r"## Command\n\n```bash\npython -m cluster.local ?(.*?)\n```", text)
    assert command, "its page has no command of one line"
    assert load_words(shlex.split(command[1])).objective.name == name
    for path in re.findall(r"`(configs/\w+\.yaml)`", text):
        assert (ROOT / path).is_file(), path
