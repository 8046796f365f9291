"""Micro-batches that run out of memory: halved, with the same gradient and nothing lost or doubled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actors.config import PolicyConfig
from learner.fitting import accumulate, in_pieces
from learner.learner import Update
from learner.ranks import Ranks
from tests.learner.rank_process import Start, draw, gradients

ROLLOUT = 7  # samples that `draw` takes through the network together, which is not what runs out of memory here
SMALL = {"device": "cpu", "steps": 5, "lora_rank": 2, "lora_alpha": 2}


class Scarce:
    """Within its block memory runs out on the way through the network, or on the way back, with over `most` samples."""

    def __init__(self, start: Start, most: int, where: str) -> None:
        self.times, self._most = 0, most
        block = start.policy.network.up_blocks[0].resnets[0]
        if where == "forward":
            self._hook = block.register_forward_pre_hook(lambda _, args: self._enough(len(args[0])))
        else:
            self._hook = block.register_full_backward_hook(lambda _, __, out: self._enough(len(out[0])))

    def _enough(self, samples: int) -> None:
        if samples > 2 * self._most and samples != 2 * ROLLOUT:  # guidance doubles them
            self.times += 1
            raise torch.OutOfMemoryError("CUDA out of memory")

    def __enter__(self) -> Scarce:
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


@pytest.fixture(scope="module")
def start(tiny_pipeline: Path) -> Start:
    return Start(PolicyConfig(model=str(tiny_pipeline), **SMALL))


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("kind", ["parts", "whole"])
@pytest.mark.parametrize(
    ("case", "fits"),  # what is not guided is half as large
    [("ppod", 1), ("dgpo", 2), pytest.param("residual_nabla_db", 1, marks=pytest.mark.slow)],
)
def test_what_runs_out_of_memory_is_halved_and_gives_the_same_gradient(
    start: Start, case: str, fits: int, kind: str, where: str
) -> None:
    expected, ranks = gradients(start, case, Ranks(), kind), Ranks()
    with Scarce(start, 1, where) as scarce:
        found = gradients(start, case, ranks, kind)
    assert scarce.times > 0
    assert ranks.fitting in (fits, ROLLOUT)
    for name in ("policy", "flow"):
        assert (found[name] - expected[name]).norm() <= 1e-4 * expected[name].norm()
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-4, abs=1e-5)


def test_a_learner_goes_on_with_what_fits(start: Start) -> None:
    batches = [draw(start.policy, iteration) for iteration in range(2)]

    def learn(size: int | str) -> tuple[list[Update], torch.Tensor]:
        learner = start.learner("ppod", micro_batch=size, ratio_tolerance=1.0)
        return [learner.step(batch) for batch in batches], torch.from_numpy(learner.weights().flat)

    with Scarce(start, 3, "forward") as scarce:
        updates, weights = learn("auto")
    expected, of_twos = learn(2)
    assert scarce.times == 3  # 16, 8 and 4 do not fit, and are not tried again
    assert [update.metrics["micro_batch"] for update in updates] == [2, 2]
    assert "micro_batch" not in expected[0].metrics
    assert torch.allclose(weights, of_twos, atol=1e-6)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_one_transition_that_does_not_fit_ends_in_a_sentence(start: Start, where: str) -> None:
    batch, learner = draw(start.policy), start.learner("ppod", ratio_tolerance=1.0)
    with (
        Scarce(start, 0, where),
        pytest.raises(MemoryError, match=r"A single transition does not fit .* set policy\.checkpointing=true"),
    ):
        learner.step(batch)


def test_pieces_are_cut_as_small_as_what_has_fitted() -> None:
    sizes, ranks = [], Ranks()

    def run(piece: torch.Tensor) -> int:
        sizes.append(len(piece))
        if len(piece) > 3:
            raise torch.OutOfMemoryError
        return int(piece.sum())

    done = in_pieces([torch.arange(10), torch.arange(10, 20)], run, ranks)
    assert torch.equal(torch.cat([piece for piece, _ in done]), torch.arange(20))
    assert sum(total for _, total in done) == sum(range(20))
    assert ranks.fitting == 2
    assert max(sizes[sizes.index(2) :]) <= 3
    assert sizes[:2] == [10, 5]


def test_accumulate_is_backward_but_all_or_nothing() -> None:
    leaves = [torch.randn(3, requires_grad=True) for _ in range(2)]
    ((leaves[0] * leaves[1]).sin() + leaves[0]).sum().backward()
    expected = [2 * leaf.grad for leaf in leaves if leaf.grad is not None]
    accumulate([((leaves[0] * leaves[1]).sin() + leaves[0]).sum()], [None])
    assert all(torch.equal(leaf.grad, twice) for leaf, twice in zip(leaves, expected, strict=True))

    def fail(_: torch.Tensor) -> None:
        raise torch.OutOfMemoryError

    hidden = leaves[0] * 1
    hidden.register_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        accumulate([(hidden + leaves[1]).sum()], [None])
    assert all(torch.equal(leaf.grad, twice) for leaf, twice in zip(leaves, expected, strict=True))
