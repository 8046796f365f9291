"""What a run's work has cost, read off records that are written here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cluster.config import Config
from cluster.pages.groups import read_config
from cluster.records.costs import Costs, costs_of
from cluster.records.rundir import RunDirectory
from cluster.records.timeline import Span

Make = Callable[..., Config]


def write(config: Config, iterations: int, evaluated: Sequence[int] = (3,), **others: float) -> RunDirectory:
    """A run of 12 images an iteration, whose first takes ten times as long, and whose third is also evaluated."""
    run = RunDirectory.create(config)
    for iteration in range(1, iterations + 1):
        times = 10 if iteration == 1 else 1
        metrics = {
            "samples": 12.0,
            "time/sample": 6.0 * times,
            "time/learn": 3.0 * times,
            "time/iteration": 8.0 * times,
        }
        spans = [Span("a+b 0", "score", 1.0, 0.3 * times), Span("a+b 1", "score", 2.0, 0.3 * times)]
        spans += [Span("c 0", "score", 1.0, 1.2 * times), Span("driver", "sampling", 0.0, 5.0)]
        if iteration in evaluated:
            metrics["eval/train/a"] = 1.0
            spans += [Span("c 0", "score", 5.0, 1000.0)]
        run.record(iteration, metrics | others, {}, spans)
    run.release()
    return run


def costs(run: RunDirectory) -> Costs:
    return costs_of(run, read_config(run.path))


def test_costs_are_medians_an_image_without_the_first_iteration_and_evaluations(make_config: Make) -> None:
    config = make_config("samplers.count=3", "reward_actors.count=2", "learner.ranks=2", "samplers.request_size=2")
    found = costs(write(config, 5))
    assert found.scoring == {"a+b": pytest.approx(0.05), "c": pytest.approx(0.1)}
    assert (found.sampling, found.learning, found.iteration) == (0.5, 0.5, 8.0)  # of two ranks together
    assert (found.images, found.request_size) == (12, 2)
    assert found.sizes == {"prompts.per_iteration": 3, "prompts.samples": 4}
    assert (found.samplers, found.reward_actors, found.ranks) == (3, 2, 2)


def test_one_iteration_is_better_than_none(make_config: Make) -> None:
    assert costs(write(make_config(), 1)).sampling == 5.0


def test_the_images_of_a_dataset_grow_with_its_pairs(make_config: Make) -> None:
    run = write(make_config(), 2)
    assert costs_of(run, read_config(run.path) | {"data": {"pairs": 8}}).sizes == {"data.pairs": 8}


@pytest.mark.parametrize(("iterations", "evaluated"), [(1, (1,)), (2, (2,)), (4, (1, 2, 3, 4))])
def test_what_rewards_cost_is_not_guessed_where_evaluations_stand_beside_all_calls(
    make_config: Make, iterations: int, evaluated: tuple[int, ...]
) -> None:
    run = write(make_config(), iterations, evaluated)
    with pytest.raises(LookupError, match=r"was evaluated too, .* three iterations or more with evaluation\.every=0"):
        costs(run)
    assert costs(write(make_config(), iterations + 1, evaluated)).scoring


@pytest.mark.parametrize(
    ("iterations", "others", "said"),
    [(0, {}, "no iteration on record yet"), (3, {"samples": 0.0}, "no iteration"), (3, {"time/sample": 0.0}, "once")],
)
def test_a_run_that_says_no_costs_is_refused(
    make_config: Make, iterations: int, others: dict[str, Any], said: str
) -> None:
    run = write(make_config(), iterations, **others)
    with pytest.raises(LookupError, match=said) as caught:
        costs(run)
    assert "\n" not in str(caught.value)


def test_settings_that_cannot_be_read_are_refused(make_config: Make) -> None:
    run = write(make_config(), 2)
    with pytest.raises(LookupError, match="cannot be read"):
        costs_of(run, {})
