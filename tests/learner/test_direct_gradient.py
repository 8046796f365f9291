"""Gradients through the chain: the sampler's image comes again, and the gradient is that of a chain unrolled anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from actors.config import PolicyConfig
from actors.policy import Policy
from actors.rollout import noise, rollout
from actors.trajectories import Request
from learner.batch import Batch, collate
from learner.direct_gradient import climbed, end_of_chain, recomputed
from learner.learner import Learner, LearnerConfig
from learner.objectives.alignprop import AlignPropConfig
from learner.objectives.draft import DRaFTConfig
from learner.objectives.draft_lv import DRaFTLVConfig
from learner.objectives.drtune import DRTuneConfig
from learner.objectives.objective import Objective, Part
from tests.learner.rank_process import Curved

PROMPTS = ("a red circle", "a red circle", "a green star")
DIRECT = (DRaFTConfig(steps=2), DRaFTLVConfig(level=2), AlignPropConfig(), DRTuneConfig(steps=2, early_stop=2))


def drawn(policy: Policy, steps: Sequence[int] = (0, 1, 2, 3, 4)) -> tuple[np.ndarray, Batch]:
    """Three images of two prompts, and the batch of them with stored steps."""
    request = Request(0, 0, PROMPTS, (0, 0, 1), (0, 1, 0), tuple(steps), clean=True)
    images, trajectories = rollout(policy, request)
    return images, collate([trajectories], np.array([0.3, -1.0, 2.0], np.float32))


def attached(config: Any, policy: Policy, reward: Any) -> Objective:
    objective: Objective = config.build()
    objective.attach(policy, reward)
    return objective


# ---------------------------------------------------------------------- the same image


class Shown(Curved):
    """Keeps what it was shown."""

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        self.images = images
        return super().score_and_grad(images, prompts)


@pytest.mark.parametrize(
    "settings",
    [{"eta": 0.0}, {"noisy_steps": (1, 3)}, {"solver": "flow_sde"}],
    ids=lambda settings: "".join(settings),
)
def test_at_the_old_weights_the_samplers_image_comes_out_again_bit_for_bit(
    policy_config: PolicyConfig, nudge: Callable[[Policy], None], settings: dict[str, Any]
) -> None:
    policy = Policy.load(policy_config.model_copy(update=settings))
    nudge(policy)
    pixels, batch = drawn(policy)
    assert batch.clean is not None
    for config in (DRaFTConfig(), DRaFTConfig(steps=None), DRTuneConfig(steps=2)):
        reward = Shown()
        objective = attached(config, policy, reward)
        (part,) = objective.parts(batch, torch.Generator().manual_seed(0))
        objective.backward(policy, batch, Part(torch.arange(3), part.columns), 3)
        again = (reward.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(again, pixels)
        assert torch.equal(reward.images, policy.decode(batch.clean))


# ---------------------------------------------------------------------- the same gradient


@pytest.fixture
def exact(policy: Policy, nudge: Callable[[Policy], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Policy]:
    """A policy that computes in float64 from beginning to end."""
    nudge(policy)
    plain = torch.Tensor.float
    monkeypatch.setattr(
        torch.Tensor, "float", lambda values: values if values.dtype == torch.float64 else plain(values)
    )
    family: Any = policy._family
    for network in (policy.network, family._autoencoder._network, family._pipeline.text_encoder):
        network.double()
    policy.transitions = replace(policy.transitions)  # whose tables are not there yet
    torch.set_default_dtype(torch.float64)
    yield policy
    torch.set_default_dtype(torch.float32)


def unrolled(policy: Policy, batch: Batch, row: int, trained: set[int], *, held: bool = False, end: int = 5) -> Tensor:
    """The image of a sample by DDIM as its paper writes it, from x_T on, with a graph at trained steps.

    Args:
        policy: Who acts.
        batch: With the noise's keys.
        row: Of the sample.
        trained: At other steps the network's output is a constant.
        held: Whether its input is one everywhere.
        end: The state whose predicted image it is; 5 is the chain's end.
    """
    chain = policy.transitions
    assert batch.keys is not None
    keys, conditioning = batch.keys[row : row + 1], policy.encode(batch.prompts[row : row + 1])
    x = noise(keys, 0, policy.latent_shape).double()
    for step in range(5):
        a, s, a_next, s_next = (
            float(v) for v in (chain.signal[step], chain.sigma[step], chain.signal[step + 1], chain.sigma[step + 1])
        )
        eps = policy.predict(x.detach() if held else x, torch.tensor([step]), conditioning)
        if step not in trained:
            eps = eps.detach()
        image = (x - s * eps) / a
        if step == end:
            return image
        std = s_next * (1 - (a * s_next / (a_next * s)) ** 2) ** 0.5
        x = (
            a_next * image
            + (s_next**2 - std**2) ** 0.5 * eps
            + std * noise(keys, step + 1, policy.latent_shape).double()
        )
    return x


def of_draft(policy: Policy, batch: Batch, part: Part, steps: int) -> list[Tensor]:
    return [unrolled(policy, batch, int(row), set(range(5 - steps, 5))) for row in part.samples]


def of_alignprop(policy: Policy, batch: Batch, part: Part) -> list[Tensor]:
    pairs = zip(part.samples.tolist(), part.columns[:, 0].tolist(), strict=True)
    return [unrolled(policy, batch, row, set(range(column, 5))) for row, column in pairs]


def of_drtune(policy: Policy, batch: Batch, part: Part) -> list[Tensor]:
    pairs = zip(part.samples.tolist(), part.columns.tolist(), strict=True)
    return [unrolled(policy, batch, row, set(trained), held=True, end=end) for row, (*trained, end) in pairs]


def of_draft_lv(policy: Policy, batch: Batch, part: Part, level: int) -> list[Tensor]:
    assert batch.keys is not None
    assert batch.clean is not None
    found, step = [], 5 - level
    signal, sigma = float(policy.transitions.signal[step]), float(policy.transitions.sigma[step])
    for row in part.samples.tolist():
        for draw in range(2):
            drawn = noise(batch.keys[row : row + 1], 2**32 + 5 * draw + step, policy.latent_shape).double()
            x = signal * batch.clean[row : row + 1] + sigma * drawn
            eps = policy.predict(x, torch.tensor([step]), policy.encode(batch.prompts[row : row + 1]))
            found.append((x - sigma * eps) / signal)
    return found


@pytest.mark.parametrize(
    ("config", "naive"),
    [
        (DRaFTConfig(), lambda *of: of_draft(*of, steps=1)),
        (DRaFTConfig(steps=None), lambda *of: of_draft(*of, steps=5)),
        (AlignPropConfig(), of_alignprop),
        (DRTuneConfig(steps=3, early_stop=3), of_drtune),
        (DRaFTLVConfig(level=3), lambda *of: of_draft_lv(*of, level=3)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_gradient_is_that_of_a_chain_unrolled_anew(
    exact: Policy, config: Any, naive: Callable[[Policy, Batch, Part], list[Tensor]]
) -> None:
    _, batch = drawn(exact)
    assert batch.latents.dtype == torch.float64
    objective = attached(config, exact, Curved())
    (part,) = objective.parts(batch, torch.Generator().manual_seed(1))
    metrics = objective.backward(exact, batch, part, 2)
    found = torch.cat([p.grad.flatten() for p in exact.parameters if p.grad is not None])
    images = exact.decode(torch.cat(naive(exact, batch, part)))
    loss = -Curved().score(images, [""] * len(images)).mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, exact.parameters)])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10 * float(expected.abs().max()))
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-9)


def test_what_is_computed_again_on_the_way_back_changes_no_gradient(exact: Policy) -> None:
    _, batch = drawn(exact)
    found, steps = [], 3
    for checkpointing in (True, False):
        objective = attached(DRaFTConfig(steps=steps, checkpointing=checkpointing), exact, Curved())
        (part,) = objective.parts(batch, torch.Generator().manual_seed(1))
        for parameter in exact.parameters:
            parameter.grad = None
        before = exact.evaluations
        objective.backward(exact, batch, part, 2)
        assert exact.evaluations - before == 3 * steps * exact.passes  # the way back is not counted
        found.append(torch.cat([p.grad.flatten() for p in exact.parameters if p.grad is not None]))
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-15)


def test_memory_does_not_grow_with_the_steps(policy: Policy) -> None:
    _, batch = drawn(policy)

    def kept(column: int, predict: Any) -> int:
        """Bytes that wait for the way back."""
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            latents = end_of_chain(policy, batch, torch.arange(3), column, predict)
        assert latents.requires_grad
        return sum(sizes.values())

    assert kept(0, policy.predict) > 4 * kept(4, policy.predict)
    assert kept(0, recomputed(policy)) < 0.1 * kept(4, policy.predict)


@pytest.mark.parametrize("config", DIRECT, ids=lambda config: config.name)
def test_micro_batches_and_dropped_samples_change_nothing(exact: Policy, config: Any) -> None:
    _, batch = drawn(exact)
    batch = replace(batch, rewards=torch.where(torch.arange(3) == 1, torch.nan, batch.rewards))
    objective = attached(config, exact, Curved())
    (part,) = objective.parts(batch, torch.Generator().manual_seed(0))
    assert sorted(part.samples.tolist()) == [0, 2]
    found = []
    for micro_batch in (99, 1):
        for parameter in exact.parameters:
            parameter.grad = None
        metrics = objective.backward(exact, batch, part, micro_batch)
        found.append((torch.cat([p.grad.flatten() for p in exact.parameters if p.grad is not None]), metrics["loss"]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-9, atol=1e-14)
    assert found[0][1] == pytest.approx(found[1][1])
    nobody = replace(batch, rewards=torch.full((3,), torch.nan))
    assert list(objective.parts(nobody, torch.Generator())) == []
    two = config.model_copy(update={"updates": 2})
    shares = [p.samples.tolist() for p in attached(two, exact, Curved()).parts(batch, torch.Generator())]
    assert sorted(shares) == [[0], [2]]


def test_what_the_reward_cannot_judge_has_no_gradient() -> None:
    class Picky(Curved):
        def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
            scores, gradient = super().score_and_grad(images, prompts)
            scores[0], gradient[1] = torch.nan, torch.inf
            return scores, gradient

    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    values, scores = climbed(Picky(), images, ["a"] * 3)
    values.sum().backward()
    assert scores.isnan().tolist() == [True, True, False]
    assert images.grad is not None
    assert not images.grad[:2].any()
    torch.testing.assert_close(images.grad[2], Curved().score_and_grad(images.detach(), [])[1][2])


# ---------------------------------------------------------------------- what it costs


@pytest.mark.parametrize(
    ("config", "evaluations", "queries"),
    [
        (DRaFTConfig(steps=2), 2, 1),
        (DRaFTLVConfig(noises=4), 4, 4),
        (DRTuneConfig(steps=3), 3, 1),
        (AlignPropConfig(least=2, most=2), 2, 1),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_an_update_spends(policy: Policy, config: Any, evaluations: int, queries: int) -> None:
    learner = Learner(LearnerConfig(micro_batch=2), policy, config.build(), reward=Curved())
    _, batch = drawn(policy, config.build().plan(policy.transitions).stored_steps)
    metrics = learner.step(batch).metrics
    assert metrics["network_evaluations"] == policy.passes * 3 * (5 + evaluations)
    assert metrics["reward_queries"] == 3 * (1 + queries)
