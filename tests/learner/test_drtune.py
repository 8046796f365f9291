"""DRTune: which steps are trained, and what each of them weighs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from actors.policy import Policy
from learner.batch import Batch
from learner.objectives.drtune import DRTuneConfig, influence
from learner.objectives.objective import Plan
from tests.support.curved import Curved
from tests.support.linear_chain import LinearPolicy, gradient_in_theta


def test_the_weights_of_a_chain_of_three_steps_by_hand() -> None:
    of_image = influence(LinearPolicy().transitions)[:, 3]
    torch.testing.assert_close(of_image.float(), torch.tensor([0.2 * 0.8 * 0.7, 0.3 * 0.7, 0.4]))


def test_a_chain_that_stops_early_ends_at_the_image_that_it_predicts(policy: Policy) -> None:
    """By differences: move what the network says at one step, hold what it says at the others."""
    chain = policy.transitions
    outputs = torch.arange(1.0, 6, dtype=torch.float64).view(5, 1)

    def image(outputs: torch.Tensor, end: int) -> torch.Tensor:
        x = torch.ones(1, dtype=torch.float64)
        for step in range(end):
            x = float(chain.state_weight[step]) * x + float(chain.output_weight[step]) * outputs[step]
        return x if end == 5 else (x - chain.sigma[end] * outputs[end]) / chain.signal[end]

    table = influence(chain)
    for step in range(5):
        moved = outputs.clone()
        moved[step] += 1
        for end in range(6):
            assert float(table[step, end]) == pytest.approx(float(image(moved, end) - image(outputs, end)), abs=1e-6)


@pytest.mark.parametrize(
    ("columns", "expected"), [((0, 1, 2, 3), 0.702), ((0, 3), 0.112), ((1, 3), 0.21), ((2, 3), 0.38), ((0, 2, 2), 0.95)]
)
def test_the_gradient_of_a_chain_of_three_steps_by_hand(columns: tuple[int, ...], expected: float) -> None:
    """The last column is where the chain ends; a network of images that is trained there has its own slope, x."""
    found = gradient_in_theta(DRTuneConfig().build(), [columns])
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_trained_steps_are_equally_spaced_and_equally_likely(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch, generator = draw(policy, steps=(0, 1, 2, 3, 4)), torch.Generator().manual_seed(0)
    objective = DRTuneConfig(steps=2, early_stop=3).build()
    objective.attach(policy, Curved())
    assert objective.plan(policy.transitions) == Plan((0, 1, 2, 3, 4), clean=True)
    columns = torch.cat([part.columns for _ in range(500) for part in objective.parts(batch, generator)])
    trained, ends = columns[:, :2], columns[:, 2]
    assert set((trained[:, 1] - trained[:, 0]).tolist()) == {2, 3}  # of five, two
    torch.testing.assert_close(trained.flatten().bincount() / len(trained), torch.full((5,), 0.4), atol=0.03, rtol=0)
    assert set(ends.tolist()) == {2, 3, 4, 5}
    objective = DRTuneConfig(steps=99).build()
    objective.attach(policy, Curved())
    (all_of_them,) = objective.parts(batch, generator)
    assert all_of_them.columns.tolist() == [[0, 1, 2, 3, 4, 5]] * 6
