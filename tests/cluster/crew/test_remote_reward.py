"""The learner's rewards in pools of actors: the same sum and the same gradient as in its own process."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import ray
import torch

from cluster.crew.remote_reward import RemoteReward
from rewards import make_reward
from rewards.actor import RewardActor
from rewards.reward import to_images
from rewards.weighted import WeightedSum
from shapes.captions import all_captions
from shapes.render import render


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_pools_of_actors_judge_as_the_learner_would() -> None:
    weights = {"a": 0.7, "watched": 0.0, "b": -0.2, "black_box": 0.0}
    kinds = {"a": "shapes_agreement", "watched": "shapes_gold", "b": "shapes_agreement", "black_box": "shapes_gold"}
    makers = {name: partial(make_reward, kind) for name, kind in kinds.items()}
    remote: Any = ray.remote(RewardActor)
    pools = {
        names: [remote.options(num_cpus=0).remote({name: makers[name] for name in names}) for _ in range(count)]
        for names, count in {("a", "watched"): 1, ("b",): 3, ("black_box",): 1}.items()
    }
    captions = all_captions("colour")[::20][:5]
    pictures = np.stack([render(captions[0], random.Random(seed)) for seed in range(5)])
    images, prompts = to_images(pictures), [caption.text for caption in captions]  # one of them fits
    expected, slopes = WeightedSum.make(makers, weights).score_and_grad(images, prompts)
    reward = RemoteReward(pools, weights)
    scores, gradients = reward.score_and_grad(images, prompts)
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(gradients, slopes)
    torch.testing.assert_close(reward.score(images, prompts), expected)
    assert expected.std() > 0.1
    for actors in pools.values():
        for actor in actors:
            ray.kill(actor)
