"""Actors without Ray: their calls are made where they are submitted, so a driver's own work is tested in seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError

from actors.config import PolicyConfig
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request, Weights
from cluster.config import Config
from cluster.crew.pool import Call, Pool
from rewards.actor import RewardActor
from rewards.errors import RewardFailed


class Reference:
    """What stands for a value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def future(self) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(self.value)
        return done


class Inline:
    """A handle of an actor that lives here.

    Args:
        actor: What it does.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> _Method:
        return _Method(getattr(self._actor, name))


class _Method:
    def __init__(self, method: Callable[..., Any], returns: int = 1) -> None:
        self._method, self._returns = method, returns

    def options(self, num_returns: int) -> _Method:
        return _Method(self._method, num_returns)

    def remote(self, *args: Any) -> Any:
        found = self._method(*(arg.value if isinstance(arg, Reference) else arg for arg in args))
        return Reference(found) if self._returns == 1 else [Reference(part) for part in found]


class InlinePool(Pool):
    """A pool of one actor that is never lost.

    Args:
        actor: What it does.
        seen: Is told of every call before it is made; may raise to break off.
    """

    def __init__(self, actor: Any, seen: Callable[[Any], None]) -> None:
        self.actors: Sequence[ActorHandle] = []
        self._actor, self._seen = Inline(actor), seen
        self._settled: dict[Any, tuple[Any, Any]] = {}
        self._announce = lambda reference: None

    def start(self, count: int, patience: float) -> None:
        pass

    def submit(self, call: Call) -> None:
        self._seen(call.job)
        try:
            reference: Any = call.make(self._actor)[0]  # type: ignore[arg-type]
        except RewardFailed as error:  # as Ray reports it
            reference = Reference(RayTaskError("answer", "", error))
        self._settled[reference] = call.job, reference.value
        self._announce(reference)

    @property
    def depths(self) -> tuple[int, int]:
        return 0, len(self._settled)

    @property
    def references(self) -> list[Any]:
        return list(self._settled)

    def settle(self, reference: Any) -> tuple[Any, Any] | None:
        return self._settled.pop(reference)

    def check(self) -> None:
        pass

    def progressed(self) -> None:
        pass


class InlineSampler:
    """A sampler without a store, that is given its weights."""

    def __init__(self, policy: PolicyConfig) -> None:
        self._policy = Policy.load(policy)

    def rollout(self, request: Request, version: int, weights: Weights | None) -> tuple[Any, ...]:
        if weights is not None:
            self._policy.load_weights(weights.flat, weights.index)
        return {}, *rollout(self._policy, request, version)


def work_inline(monkeypatch: pytest.MonkeyPatch, seen: Callable[[Any], None] = lambda job: None) -> None:
    """Let `cluster.matrix.working` work in this process."""

    class Ray:
        ObjectRef = Reference
        put = staticmethod(Reference)
        get = staticmethod(lambda reference: reference.value)
        kill = staticmethod(lambda actor: None)

    def rewards(config: Config, *_: Any) -> dict[tuple[str, ...], Pool]:
        makers = config.makers
        return {
            names: InlinePool(RewardActor({name: makers[name] for name in names}), seen)
            for names in config.environments.values()
        }

    module = "cluster.matrix.working"
    monkeypatch.setattr(f"{module}.ray", Ray)
    monkeypatch.setattr(f"{module}.start_store", lambda tag: None)
    monkeypatch.setattr(f"{module}.start_rewards", rewards)
    monkeypatch.setattr(f"{module}.start_samplers", lambda config, policy, *_: InlinePool(InlineSampler(policy), seen))
    monkeypatch.setattr("cluster.evaluate.local.place", lambda config: None)
