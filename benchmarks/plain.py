"""A run in this process alone: the functions that the actors call, in turns, without Ray."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request, Trajectories
from cluster.config import Config
from cluster.sources.source import RequestMaker
from learner.advantages import Advantages
from learner.batch import Batch, collate
from learner.learner import Learner
from rewards.actor import RewardActor
from rewards.reward import Scores
from rewards.weighted import WeightedSum


class Drawn(NamedTuple):
    """A scored request."""

    trajectories: Trajectories
    scores: Scores


class PlainRun:
    """The policy, rewards and learner of a configuration.

    Args:
        config: Of a run whose samplers draw its batches; others end the process with a sentence.

    Attributes:
        policy: Of the learner, which also samples.
        objective: What it is trained by.
        learner: Takes the steps.
        rewards: Judges.
    """

    def __init__(self, config: Config) -> None:
        if config.data is not None or config.people is not None:
            sys.exit("error: Only runs whose batches are drawn and scored are measured; leave data and people out.")
        self.policy = Policy.load(config.policy.model_copy(update={"model": config.pipeline}), config.seed)
        self.policy.transitions = replace(self.policy.transitions, first_step=config.first_step)
        self.objective = config.objective.build()
        weights, how = config.weights, config.combination
        asked = config.objective.asks.reward != "scores"
        model = WeightedSum.make(config.makers, weights) if asked else None
        self.learner = Learner(config.learner, self.policy, self.objective, config.seed, model, config.iterations)
        plans = [self.objective.plan(self.policy.transitions, version) for version in range(config.iterations)]
        if plans[0].offline_batches:
            sys.exit("error: Only runs that draw every batch anew are measured; set objective.offline_batches=0.")
        self._maker = RequestMaker(config, plans)
        self.rewards, self._judges = RewardActor(config.makers), [name for name in weights if weights[name]]
        self._advantages = Advantages(weights, config.standardise, how.buffer, how.min_count, how.whiten)

    def requests(self, batch: int) -> list[Request]:
        """What samplers are asked for a batch."""
        return [self._maker[number] for number in self._maker.of_batch(batch)]

    def draw(self, request: Request) -> Drawn:
        """Roll out a request and score its images."""
        pixels, stored = rollout(self.policy, request, self.learner.version)
        tried: Any = () if stored.predicted is None else ((stored.predicted, stored.times), self._judges)
        return Drawn(replace(stored, predicted=None), self.rewards.score(pixels, request.prompts, None, False, *tried))

    def collate(self, drawn: Sequence[Drawn]) -> Batch:
        """The batch that the learner is given."""
        trajectories = [one.trajectories for one in drawn]
        joined = np.concatenate([one.scores.values for one in drawn], axis=1)
        scores = dict(zip(drawn[0].scores.names, joined, strict=True))
        groups = np.concatenate([stored.prompt_index for stored in trajectories])
        made, _ = self._advantages.of(scores, groups, [prompt for stored in trajectories for prompt in stored.prompts])
        candidates = {
            name: np.concatenate([one.scores.candidates[name] for one in drawn]) for name in drawn[0].scores.candidates
        }
        return collate(trajectories, made, scores, self._advantages.weighted(candidates) if candidates else None)
