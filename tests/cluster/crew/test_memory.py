"""What a run needs of memory, by role; and whether there is as much."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.config import load_config
from cluster.crew.memory import Need, estimate
from tests.support.tiny import write_config
from tests.support.tiny_flow import make_flux, make_klein, make_sd3
from tests.support.tiny_sdxl import make_sdxl


@pytest.fixture
def needs(tmp_path: Path):
    file = write_config(tmp_path)

    def of(*overrides: str, on_gpu: bool = False) -> dict[str, Need]:
        return {need.role: need for need in estimate(load_config(file, overrides), on_gpu)}

    return of


def test_passes_grow_with_what_goes_through_at_a_time(needs) -> None:
    one, two = needs("learner.micro_batch=1"), needs("learner.micro_batch=2")
    assert one["sampler"].host["2 pictures"] > 0
    assert one["learner"].host["1 transitions"] < two["learner"].host["2 transitions"]
    assert two["learner"].host["2 transitions"] < 2.2 * one["learner"].host["1 transitions"]


def test_a_reward_s_gradient_takes_the_decoder_to_the_learner(needs) -> None:
    scores = needs("policy.device=cuda")["learner"]
    gradients = needs(
        "policy.device=cuda", "objective.name=refl", "rewards={jpeg_compressibility: {weight: 0}, pickscore: {}}"
    )["learner"]
    assert gradients.device["networks"] == scores.device["networks"] + scores.host["networks"]
    assert gradients.device["4 transitions"] > scores.device["4 transitions"]


def test_text_encoders_are_counted_where_they_are(needs) -> None:
    with_it, without = needs("policy.device=cuda"), needs("policy.device=cuda", "policy.encoders=cpu")
    for role in ("sampler", "learner"):
        assert with_it[role].device["text encoders"] == without[role].host["text encoders"] > 0
        assert "text encoders" not in without[role].device
        assert "policy.encoders=cpu" in with_it[role].advice
        assert "policy.encoders=cpu" not in without[role].advice


@pytest.mark.parametrize(
    ("role", "thrift"), [("learner", "policy.checkpointing=true"), ("sampler", "policy.vae_slicing=true")]
)
def test_thrift_is_advised_until_it_is_practised(needs, role: str, thrift: str) -> None:
    lavish, thrifty = needs()[role], needs(thrift)[role]
    assert thrift in lavish.advice
    assert thrift not in thrifty.advice
    assert sum(thrifty.host.values()) <= sum(lavish.host.values())


def test_half_precision_halves_the_networks(needs) -> None:
    whole, half = (needs("policy.device=auto", f"policy.dtype={dtype}", on_gpu=True) for dtype in ("float32", "auto"))
    assert half["learner"].device["networks"] == pytest.approx(whole["learner"].device["networks"] / 2, rel=0.05)


def test_rewards_are_counted_by_what_their_classes_say(needs) -> None:
    found = needs("policy.device=cuda", "rewards={pickscore: {}, clip: {weight: 0}}")["reward"]
    assert found.device["rewards"] == 4 * (986_109_441 + 427_616_513)


def test_a_line_says_how_much_and_what_for() -> None:
    need = Need(
        "learner", "the learner", 1, {"networks": 2e9, "4 transitions": 6.5e9, "adapter": 1}, {"process": 6e8}, ""
    )
    assert need.line() == (
        "memory: the learner needs about 8.5 GB (networks 2, 4 transitions 6.5) of its GPU and 0.6 GB (process 0.6) of "
        "its machine"
    )


@pytest.mark.parametrize("make", [make_sdxl, make_sd3, make_flux, make_klein])
def test_every_family_is_gone_through_without_numbers(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    model = make(tmp_path / "model")
    config = load_config(
        write_config(tmp_path),
        [f"policy.model={model}", f"policy.lora_targets={['to_q', 'to_k']}", "policy.eta=null", "policy.guidance=1"],
    )
    found = {need.role: need for need in estimate(config, on_gpu=False)}
    assert found["learner"].host["4 transitions"] > found["sampler"].host["adapter"] > 0
    assert found["sampler"].host["2 pictures"] > 0
