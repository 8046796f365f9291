"""ReFL: the gradient is that of the predicted image's reward, at late steps only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from actors.policy import Policy
from learner.batch import Batch
from learner.objectives.objective import Part, Plan
from learner.objectives.refl import ReFLConfig


class Redness:
    """Mean red of an image; one prompt cannot be judged."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images[:, 0].flatten(1).mean(dim=1)

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        gradient = torch.zeros_like(images)
        gradient[:, 0] = 1 / images[0, 0].numel()
        return self.score(images, prompts), gradient


def test_only_late_steps_are_stored() -> None:
    chain: Any = SimpleNamespace(trainable_steps=tuple(range(12)))
    assert ReFLConfig(step_fraction=0.25).build().plan(chain) == Plan((9, 10, 11))
    assert ReFLConfig(step_fraction=0.01).build().plan(chain) == Plan((11,))


def test_parts_draw_one_late_step_of_each_sample(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch = draw(policy, steps=(3, 4))
    parts = list(ReFLConfig(updates=2).build().parts(batch, torch.Generator().manual_seed(0)))
    assert sorted(torch.cat([part.samples for part in parts]).tolist()) == list(range(6))
    assert all(part.columns.shape == (3, 1) for part in parts)
    assert {int(c) for part in parts for c in part.columns} <= {0, 1}


@pytest.mark.parametrize("micro_batch", [6, 4])
def test_the_gradient_climbs_the_reward_of_the_predicted_image(
    policy: Policy, draw: Callable[..., Batch], nudge: Callable[..., None], micro_batch: int
) -> None:
    nudge(policy)
    batch, objective = draw(policy, steps=(3, 4)), ReFLConfig().build()
    objective.attach(policy, Redness())
    part = Part(torch.arange(6), torch.tensor([[0], [1], [0], [0], [1], [1]]))
    metrics = objective.backward(policy, batch, part, micro_batch)
    found = torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None])
    x, step = batch.latents[torch.arange(6), part.columns[:, 0]], batch.steps[part.columns[:, 0]]
    loss = -Redness().score(policy.decode(policy.clean(x, step, policy.encode(batch.prompts))), batch.prompts).mean()
    expected = torch.autograd.grad(loss, policy.parameters)
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in expected]), rtol=1e-3, atol=1e-7)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("guided", [True, False])
def test_a_threshold_ends_the_gradient_of_what_is_good_enough(
    policy: Policy, draw: Callable[..., Batch], nudge: Callable[..., None], guided: bool
) -> None:
    """The released script's scale relu(threshold - r), with guidance and without."""
    nudge(policy)
    batch, rows = draw(policy, steps=(3, 4)), torch.arange(6)
    x, step, text = batch.latents[:, 0], batch.steps[:1].expand(6), policy.encode(batch.prompts)
    scores = Redness().score(policy.decode(policy.clean(x, step, text, guided)), batch.prompts)
    threshold = float(scores.detach().median()) + 1e-6
    objective = ReFLConfig(threshold=threshold, scale=0.1, guided=guided).build()
    objective.attach(policy, Redness())
    before = policy.evaluations
    metrics = objective.backward(policy, batch, Part(rows, torch.zeros(6, 1, dtype=torch.int64)), 4)
    assert policy.evaluations - before == 6 * (2 if guided else 1)
    found = torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None])
    loss = 0.1 * (threshold - scores).relu().mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, policy.parameters)])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-8)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)


def test_dropped_samples_take_no_part(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch = draw(policy, steps=(3, 4))
    rewards = batch.rewards.clone()
    rewards[[1, 4]] = float("nan")
    parts = list(ReFLConfig().build().parts(replace(batch, rewards=rewards), torch.Generator().manual_seed(0)))
    assert sorted(torch.cat([part.samples for part in parts]).tolist()) == [0, 2, 3, 5]
    rewards[:] = float("nan")
    assert list(ReFLConfig().build().parts(replace(batch, rewards=rewards), torch.Generator())) == []
