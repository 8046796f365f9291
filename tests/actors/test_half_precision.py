"""Gradients through float16: near to float32's however small they are, and finite however large."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from actors.config import PolicyConfig
from actors.half_precision import through
from actors.policy import Policy


def network() -> tuple[nn.Linear, nn.Sequential]:
    """A float32 layer that is trained before float16 ones that are frozen."""
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 16)).half().requires_grad_(False)
    return nn.Linear(16, 16), frozen


@pytest.mark.parametrize("size", [1e-12, 1e-9, 1e-6, 1.0, 1e4, 1e9])
def test_gradients_have_small_errors_at_any_size(size: float) -> None:
    trained, frozen = network()
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))

    def half(x: Tensor) -> Tensor:
        return frozen(trained(x).half()).float()

    def gradients(run: nn.Module | object, scale: float) -> Tensor:
        leaf = x.clone().requires_grad_()
        out = run(leaf)  # type: ignore[operator]
        found = torch.autograd.grad((out.square().sum() * scale), [leaf, *trained.parameters()])
        return torch.cat([g.flatten() for g in found]).double() / scale

    found = gradients(lambda leaf: through(half, leaf, list(trained.parameters())), size)
    frozen.float()
    true = gradients(lambda leaf: frozen(trained(leaf)), 1.0)
    assert float((found - true).norm() / true.norm()) < 5e-3


def test_what_overflows_inside_is_taken_again_with_a_smaller_factor() -> None:
    def steep(x: Tensor) -> Tensor:  # multiplies gradients by 2^14 and then divides them
        return ((x.half() * 2**-14) * 2**14).float()

    x = torch.full((3,), 0.5, requires_grad=True)
    through(steep, x, ()).backward(torch.full((3,), 1e-3))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full((3,), 1e-3), rtol=2e-3, atol=0)


def test_a_gradient_that_is_not_finite_stays_so() -> None:
    x = torch.zeros(2, requires_grad=True)
    through(lambda x: x.half().float(), x, ()).backward(torch.tensor([float("nan"), 1.0]))
    assert x.grad is not None
    assert not x.grad.isfinite().all()


def test_the_way_back_can_be_taken_twice() -> None:
    x = torch.ones(2, requires_grad=True)
    out = through(lambda x: (2 * x.half()).float(), x, ())
    twice = [torch.autograd.grad(out.sum(), x, retain_graph=True)[0] for _ in range(2)]
    assert [g.tolist() for g in twice] == [[2.0, 2.0]] * 2


def test_a_float16_policy_learns_from_the_smallest_of_losses(policy_config: PolicyConfig) -> None:
    """Through decoder, UNet and adapter, against the float32 base."""
    found = {}
    for dtype in ("float32", "float16"):
        policy = Policy.load(policy_config.model_copy(update={"dtype": dtype}))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in policy.parameters:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        images = policy.decode(policy.clean(x, torch.tensor([1, 3]), policy.encode(["a red circle", "a blue star"])))
        (1e-7 * images.square().mean()).backward()
        assert x.grad is not None
        found[dtype] = torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None]), x.grad.flatten()
    for half, true in zip(found["float16"], found["float32"], strict=True):
        assert half.numel() == true.numel()
        assert float((half - true).norm() / true.norm()) < 0.03
