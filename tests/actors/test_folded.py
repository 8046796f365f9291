"""LoRA that is folded into its layer is the same layer as peft's, wherever and as whatever it acts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from peft import LoraConfig
from peft.tuners import lora
from torch import Tensor, nn

from actors import folded
from actors.adapters import LoraShape, adapter_parameters, add_adapter, use_adapter
from actors.config import PolicyConfig
from actors.folded import FoldedLinear
from actors.policy import Policy
from shapes import PIPELINES


class Quantised(nn.Linear):
    """As bitsandbytes' layers are: of a class of their own."""


def network(width: int = 24, dtype: torch.dtype = torch.float32, kind: type[nn.Linear] = nn.Linear) -> nn.Module:
    """A layer `to_q` with two adapters, `one` and `two`, both of them not nothing."""

    class Net(ModelMixin, PeftAdapterMixin):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.to_q = kind(width, 2 * width)

        def forward(self, x: Tensor) -> Tensor:
            return self.to_q(x)

    torch.manual_seed(0)
    net = Net().to(dtype)
    for name in ("one", "two"):
        add_adapter(net, name, LoraShape(3, 6, ("to_q",)))
        for _, parameter in adapter_parameters(net, name):
            nn.init.normal_(parameter)
    return net


def both_forms(net: nn.Module, x: Tensor) -> list[list[Tensor]]:
    """What comes out, and the gradients of the input and of the acting adapter: folded, and as peft has it."""
    found = []
    for forward in (FoldedLinear.forward, lora.Linear.forward):
        x = x.detach().requires_grad_()
        out = forward(net.to_q, x)
        parameters = [p for p in net.to_q.parameters() if p.requires_grad]
        torch.manual_seed(1)
        found.append([out.detach(), *torch.autograd.grad(out, (x, *parameters), torch.randn_like(out))])
    return found


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-4), (torch.float64, 1e-12)], ids=["float", "double"])
@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 7, 24)])
def test_folded_is_the_same_function_with_the_same_gradients(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, near: float
) -> None:
    net = network().to(dtype)
    use_adapter(net, name, trained=name)
    ours, plain = both_forms(net, torch.randn(shape, dtype=dtype))
    assert len(ours) == 4  # and the gradients of x, A and B
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=near, atol=near)  # of sums of 24 products of size 50
    assert not torch.equal(ours[0], plain[0])  # it rounds otherwise: it was folded


def test_adapters_that_are_off_change_no_bit() -> None:
    net, x = network(), torch.randn(5, 24)
    use_adapter(net, None, trained="one")
    assert torch.equal(net(x), net.to_q.get_base_layer()(x))


@pytest.mark.parametrize(
    ("width", "dtype"),
    [(24, torch.bfloat16), (24, torch.float64), (256, torch.float32)],
    ids=["half", "an adapter of another precision", "large"],
)
def test_where_it_does_not_pay_or_would_lose_the_adapter_it_is_peft_own(width: int, dtype: torch.dtype) -> None:
    net = network(width, dtype)
    use_adapter(net, "one", trained="one")
    ours, plain = both_forms(net, torch.randn(5, width, dtype=dtype))
    assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))


def test_the_largest_that_is_folded_has_so_many_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network(), torch.randn(5, 24)
    use_adapter(net, "one", trained="one")
    for small, is_folded in ((24 * 48, True), (24 * 48 - 1, False)):
        monkeypatch.setattr(folded, "SMALL", small)
        ours, plain = both_forms(net, x)
        assert torch.equal(ours[0], plain[0]) != is_folded


def act(net: nn.Module, **settings: Any) -> None:
    """Let an adapter of another kind act."""
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["to_q"], **settings)
    net.add_adapter(config, adapter_name="other")
    for _, parameter in adapter_parameters(net, "other"):
        nn.init.normal_(parameter)
    use_adapter(net, "other", trained="other")


def lack(net: nn.Module) -> None:
    """As a layer that the acting adapter leaves out."""
    net.to_q._active_adapter = "elsewhere"


def halve(net: nn.Module) -> None:
    """Its adapters, not the layer."""
    net.to_q.lora_A.bfloat16()
    net.to_q.lora_B.bfloat16()


STATES: dict[str, Callable[[nn.Module], object]] = {
    "merged": lambda net: net.fuse_lora(),
    "two at once": lambda net: net.set_adapter(["one", "two"]),
    "an adapter that it lacks": lack,
    "dropout": lambda net: act(net, lora_dropout=0.5),
    "bias": lambda net: act(net, lora_bias=True),
    "DoRA": lambda net: act(net, use_dora=True),
    "half": halve,
}


@pytest.mark.parametrize("state", STATES)
def test_what_is_not_one_plain_adapter_is_peft_own(state: str) -> None:
    net, x = network(), torch.randn(5, 24)
    use_adapter(net, "one", trained="one")
    before = net(x)
    STATES[state](net)
    found = []
    for forward in (FoldedLinear.forward, lora.Linear.forward):
        torch.manual_seed(1)  # of dropout
        found.append(forward(net.to_q, x))
    assert torch.equal(*found)
    assert torch.allclose(found[0], before, rtol=1e-4, atol=1e-3) == (state == "merged")


def test_adapters_by_the_row_are_peft_own() -> None:
    net, x = network(), torch.randn(3, 24)
    expected = []
    for name, row in zip(("one", None, "two"), x, strict=True):
        use_adapter(net, name, trained="one")
        expected.append(net(row))
    net.enable_adapters()
    found = net.to_q(x, adapter_names=["one", "__base__", "two"])
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-3)


def test_autocast_is_peft_own() -> None:
    net, x = network(), torch.randn(5, 24)
    use_adapter(net, "one", trained="one")
    with torch.autocast("cpu", torch.bfloat16):
        ours, plain = both_forms(net, x)
    assert ours[0].dtype == torch.bfloat16
    assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))


@pytest.mark.parametrize("name", PIPELINES)
def test_the_embedded_models_are_folded(name: str) -> None:
    policy = Policy.load(PolicyConfig(model=str(PIPELINES[name]), device="cpu", steps=2, lora_rank=8, lora_alpha=8))
    layers = [module for module in policy.network.modules() if isinstance(module, lora.LoraLayer)]
    assert {type(layer) for layer in layers} == {FoldedLinear}
    assert max(layer.get_base_layer().weight.numel() for layer in layers) <= folded.SMALL


def test_layers_of_other_kinds_are_left_to_peft() -> None:
    assert type(network(kind=Quantised).to_q) is lora.Linear
