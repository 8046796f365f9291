"""The sampler actor, called as a plain object with a store that lives in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import ray

from actors.config import PolicyConfig
from actors.policy import Policy
from actors.rollout import rollout
from actors.sampler import Sampler
from actors.trajectories import Request, Weights

REQUEST = Request(0, 0, ("a red circle", "a blue square"), (0, 1), (0, 0), (0, 1))


class Store:
    """Answers `newer` as the weight store does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.number = 0
        self.asked: list[int] = []
        self.newer = SimpleNamespace(remote=self._newer)

    @property
    def published(self) -> Weights:
        return self._published

    @published.setter
    def published(self, weights: Weights) -> None:
        self._published = weights
        self.number += 1

    def _newer(self, have: int) -> tuple[int, Weights, float] | None:
        self.asked.append(have)
        return None if self.number == have else (self.number, self._published, time.time() - 7)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store, which `ray` finds by its name; references are the values themselves."""
    store = Store()
    monkeypatch.setattr(ray, "get_actor", {"weights": store}.__getitem__)
    monkeypatch.setattr(ray, "get", lambda reference, timeout=None: reference)
    return store


@pytest.fixture
def sampler(store: Store, policy_config: PolicyConfig) -> Sampler:
    """A sampler that has just started."""
    return Sampler(policy_config, "weights")


@pytest.fixture
def trained(policy: Policy, nudge: Callable[[Policy], None]) -> Callable[[int], Weights]:
    """Weights of ever new policies."""

    def weights(version: int) -> Weights:
        nudge(policy)
        return Weights.pack(version, *policy.weights())

    return weights


def expected(policy: Policy, weights: Weights | None = None) -> np.ndarray:
    """What a policy with these weights samples."""
    if weights is not None:
        policy.load_weights(weights.flat, weights.index)
    return rollout(policy, REQUEST)[1].next_latents


def test_a_sampler_starts_as_the_pretrained_model(sampler: Sampler, policy: Policy) -> None:
    receipt, images, chain = sampler.rollout(REQUEST, version=0)
    assert np.array_equal(chain.next_latents, expected(policy))
    assert np.array_equal(images, rollout(policy, REQUEST)[0])
    assert chain.version == receipt["version"] == 0


def test_newer_weights_act_and_are_stamped(
    sampler: Sampler, store: Store, policy: Policy, trained: Callable[[int], Weights]
) -> None:
    before = sampler.rollout(REQUEST, version=0)[2]
    store.published = trained(5)
    receipt, _, chain = sampler.rollout(REQUEST, version=4)
    assert not np.array_equal(chain.next_latents, before.next_latents)
    assert np.array_equal(chain.next_latents, expected(policy, store.published))
    assert chain.version == receipt["version"] == 5
    assert receipt["lag"] == pytest.approx(7, abs=5)  # the store published them 7 s ago


def test_a_receipt_says_who_acted_and_has_a_lag_only_for_weights_that_were_new(
    store: Store, policy_config: PolicyConfig, trained: Callable[[int], Weights]
) -> None:
    sampler, store.published = Sampler(policy_config, "weights", "sampler-3"), trained(1)
    first, second = (sampler.rollout(REQUEST, version=1)[0] for _ in range(2))
    assert repr(sampler) == first["actor"] == second["actor"] == "sampler-3"
    assert first["lag"] > 0
    assert second["lag"] is None


def test_weights_are_fetched_once(sampler: Sampler, store: Store, trained: Callable[[int], Weights]) -> None:
    store.published = trained(1)
    for _ in range(2):
        sampler.rollout(REQUEST, version=1)
    assert store.asked == [0, 1]


def test_older_weights_of_a_restored_learner_are_the_newer_truth(
    sampler: Sampler, store: Store, policy: Policy, trained: Callable[[int], Weights]
) -> None:
    early, late = trained(2), trained(7)
    store.published = late
    sampler.rollout(REQUEST, version=7)
    store.published = early
    chain = sampler.rollout(REQUEST, version=2)[2]
    assert chain.version == 2
    assert np.array_equal(chain.next_latents, expected(policy, early))


def test_a_sampler_that_is_behind_does_not_serve(
    sampler: Sampler, store: Store, trained: Callable[[int], Weights]
) -> None:
    store.published = trained(3)
    with pytest.raises(RuntimeError, match=r"version 4.*newer than 3"):
        sampler.rollout(REQUEST, version=4)


def test_damaged_weights_are_refused_and_the_old_ones_stay(
    sampler: Sampler, store: Store, policy: Policy, trained: Callable[[int], Weights]
) -> None:
    store.published = good = trained(1)
    sampler.rollout(REQUEST, version=1)
    store.published = replace(trained(2), flat=np.zeros_like(good.flat))
    with pytest.raises(ValueError, match="damaged"):
        sampler.rollout(REQUEST, version=1)
    store.published = good
    chain = sampler.rollout(REQUEST, version=1)[2]
    assert chain.version == 1
    assert np.array_equal(chain.next_latents, expected(policy, good))


def test_a_sampler_recovers_from_weights_that_do_not_fit(
    sampler: Sampler, store: Store, policy: Policy, trained: Callable[[int], Weights]
) -> None:
    good = trained(2)
    store.published = Weights.pack(2, good.flat[:-1], good.index[:-1])
    with pytest.raises(ValueError, match="another adapter"):
        sampler.rollout(REQUEST, version=2)
    store.published = good
    assert np.array_equal(sampler.rollout(REQUEST, version=2)[2].next_latents, expected(policy, good))


def test_weights_of_an_evaluation_act_once(
    sampler: Sampler, store: Store, policy: Policy, trained: Callable[[int], Weights]
) -> None:
    store.published, average = trained(3), trained(3)
    assert np.array_equal(sampler.rollout(REQUEST, 0, average)[2].next_latents, expected(policy, average))
    chain = sampler.rollout(REQUEST, version=3)[2]
    assert np.array_equal(chain.next_latents, expected(policy, store.published))
