"""LoRA that is folded into its layer is the same layer as peft's, wherever and as whatever it acts."""

from __future__ import annotations

import pytest
import torch
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from peft.tuners import lora
from torch import Tensor, nn

from actors.adapters import LoraShape, adapter_parameters, add_adapter, use_adapter
from actors.folded import FoldedLinear


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


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 7, 24)])
def test_folded_is_the_same_function_with_the_same_gradients(name: str, shape: tuple[int, ...]) -> None:
    net = network()
    use_adapter(net, name, trained=name)
    folded, plain = both_forms(net, torch.randn(shape))
    assert len(folded) == 4  # and the gradients of x, A and B
    for one, other in zip(folded, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # of sums of 24 products of size 50
    assert not torch.equal(folded[0], plain[0])  # it rounds otherwise: it was folded


def test_adapters_that_are_off_change_no_bit() -> None:
    net, x = network(), torch.randn(5, 24)
    use_adapter(net, None, trained="one")
    assert torch.equal(net(x), net.to_q.get_base_layer()(x))


@pytest.mark.parametrize(
    ("width", "dtype"),
    [(24, torch.bfloat16), (24, torch.float64), (256, torch.float32)],
    ids=["half", "double", "large"],
)
def test_where_it_does_not_pay_or_would_lose_the_adapter_it_is_peft_own(width: int, dtype: torch.dtype) -> None:
    net = network(width, dtype)
    use_adapter(net, "one", trained="one")
    folded, plain = both_forms(net, torch.randn(5, width, dtype=dtype))
    assert all(torch.equal(one, other) for one, other in zip(folded, plain, strict=True))


def test_a_denoiser_has_such_layers() -> None:
    layers = [module for module in network().modules() if isinstance(module, lora.Linear)]
    assert [type(layer) for layer in layers] == [FoldedLinear]


def test_layers_of_other_kinds_are_left_to_peft() -> None:
    assert type(network(kind=Quantised).to_q) is lora.Linear
