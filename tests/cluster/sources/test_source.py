"""The requests of a run: a pure function of their number, and each sample of a batch in exactly one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.config import Config
from cluster.sources.source import RequestMaker
from learner.objectives.objective import Plan

PLAN = Plan(stored_steps=(0, 2), share_init_noise=True, clean=True)


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    return make_config("seed=5", "prompts.per_iteration=4", "prompts.samples=3", "samplers.request_size=2")


def test_every_sample_of_a_batch_is_in_one_request(config: Config) -> None:
    maker = RequestMaker(config, [PLAN] * 4)
    for batch in (0, 3):
        requests = [maker[number] for number in maker.of_batch(batch)]
        samples = [pair for r in requests for pair in zip(r.prompt_index, r.sample_index, strict=True)]
        assert samples == [(group, sample) for group in range(4) for sample in range(3)]
        assert {len(request.prompts) for request in requests} == {2}
        texts = {(g, text) for r in requests for g, text in zip(r.prompt_index, r.prompts, strict=True)}
        assert len(texts) == 4  # a group has one prompt, whichever request its samples are in
        for request in requests:
            assert (request.seed, request.iteration) == (5, batch)
            assert (request.stored_steps, request.share_init_noise, request.clean) == ((0, 2), True, True)


def test_a_request_does_not_depend_on_those_before(config: Config) -> None:
    first, second = RequestMaker(config, [PLAN] * 4), RequestMaker(config, [PLAN] * 4)
    forward = [first[number] for number in range(18)]
    assert [second[number] for number in reversed(range(18))] == forward[::-1]
    assert [n for batch in range(3) for n in first.of_batch(batch)] == list(range(18))
