"""FLUX.2 klein: what is refused of it, and how close half precision stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actors.config import PolicyConfig
from actors.model_check import check_model, find_family
from actors.policy import Policy
from tests.support.tiny_flow import make_klein


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        ({"distilled": True}, {"guidance": 4.0}, r"policy\.guidance is 4, .* set policy\.guidance=1"),
        (
            {},
            {"prompt_windows": 2},
            r"prompt_windows is 2, but .* told 1 window .* set policy\.prompt_windows=1",
        ),
        ({"transformer": {"guidance_embeds": True}}, {}, "told a guidance scale"),
        ({"transformer": {"in_channels": 32}}, {}, "32 channels .* packed to 16"),
        ({"text": {"num_hidden_layers": 20}}, {}, "20 layers"),
    ],
)
def test_what_klein_is_not_is_refused(
    tmp_path: Path, model: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    folder = make_klein(tmp_path / "model", **model)
    with pytest.raises(ValueError, match=said) as caught:
        check_model(PolicyConfig(model=str(folder), **{"height": 16, "width": 16, **settings}))
    assert str(caught.value).endswith(".")


def test_a_tokenizer_without_its_template_is_refused(tmp_path: Path) -> None:
    folder = make_klein(tmp_path / "model")
    (folder / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        check_model(PolicyConfig(model=str(folder), height=16, width=16))
    make_klein(tmp_path / "whole", distilled=True)
    assert check_model(PolicyConfig(model=str(tmp_path / "whole"), guidance=1.0, height=16, width=16)) is not None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@torch.no_grad()
def test_half_precision_stays_close_and_its_pictures_are_finite(tmp_path: Path, dtype: str) -> None:
    """Guided, at the first and at the last step."""
    folder = make_klein(tmp_path / "model")
    settings = {"model": str(folder), "device": "cpu", "height": 16, "width": 16, "steps": 4, "guidance": 4.0}
    half, full = (Policy.load(PolicyConfig(**settings, dtype=name)) for name in (dtype, "float32"))
    x = torch.randn(2, *half.latent_shape, generator=torch.Generator().manual_seed(3))
    found, expected = (
        policy.predict(x, torch.tensor([0, 3]), policy.encode(["a red circle", "two blue squares"]))
        for policy in (half, full)
    )
    assert found.dtype == torch.float32
    assert 0 < (found - expected).norm() / expected.norm() < 0.1
    assert half.decode(x).isfinite().all()


class Whole(nn.Linear):
    """Keeps its bfloat16 weights as whole numbers, as quantised layers do."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.view(torch.bfloat16), self.bias)


@pytest.mark.slow
@torch.no_grad()
def test_a_quantised_network_is_told_numbers_of_the_format_that_it_computes_in(tmp_path: Path) -> None:
    """The first floating numbers in it are then an adapter's, which are float32."""
    folder = make_klein(tmp_path / "model")
    config = PolicyConfig(model=str(folder), device="cpu", height=16, width=16, steps=4, dtype="bfloat16")
    family = find_family(folder).load(folder, config, torch.device("cpu"), torch.bfloat16)
    for layer in family.network.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Whole
            layer.weight = nn.Parameter(layer.weight.view(torch.int8), requires_grad=False)
    quantised, plain = Policy(family, config), Policy.load(config)
    assert next(p for p in quantised.network.parameters() if p.is_floating_point()).dtype == torch.float32
    x, told = torch.randn(2, *plain.latent_shape), plain.encode(["a red circle", "two blue squares"])
    step = torch.tensor([0, 3])
    assert torch.equal(quantised.predict(x, step, told), plain.predict(x, step, told))
