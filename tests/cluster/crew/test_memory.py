"""What a run needs of memory, by role; and whether there is as much."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from actors import model_files
from cluster.config import load_config
from cluster.crew.memory import Need, estimate
from tests.support.tiny import make_pipeline, write_config
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


@pytest.mark.parametrize(
    ("objective", "latents"),
    [
        (("objective.kl_weight=0",), 4 * (2 * 3 + 1)),  # of four samples both ends of three transitions, and the KL's
        (("objective.kl_weight=0.1",), 4 * (2 * 3 + 1) + 4 * 3),
        (("objective.kl_weight=0.1", "objective.prompts_per_update=1"), 4 * (2 * 3 + 1) + 2 * 3),
        (("objective.kl_weight=0.1", "objective.steps_per_update=1", "learner.ranks=2"), 4 * (2 * 3 + 1) + 4 / 2),
        (("objective.name=dgpo", "objective.states=1"), 4 * (1 + 1) + 4),  # the last state in place of transitions
        (("objective.name=dgpo", "objective.states=9"), 4 * (1 + 1) + 4 * 2),
    ],
    ids=str,
)
def test_a_batch_is_its_states_and_what_an_update_keeps(needs, objective: tuple[str, ...], latents: float) -> None:
    """Of two prompts with two samples, at three steps."""
    of_state = 4 * 4 * 8 * 8  # bytes
    assert needs("policy.device=cuda", *objective)["learner"].host["batch"] == latents * of_state


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


def test_float16_keeps_the_decoder_of_stable_diffusion_xl_in_float32(tmp_path: Path) -> None:
    model = make_sdxl(tmp_path / "model")
    settings = [f"policy.model={model}", "policy.guidance=1", "policy.device=cuda"]
    half, whole = (
        {need.role: need for need in estimate(load_config(write_config(tmp_path), [*settings, dtype]), on_gpu=True)}
        for dtype in ("policy.dtype=float16", "policy.dtype=float32")
    )
    assert half["sampler"].device["2 pictures"] == pytest.approx(whole["sampler"].device["2 pictures"], rel=0.05)
    assert half["learner"].device["4 transitions"] < 0.9 * whole["learner"].device["4 transitions"]


@pytest.mark.parametrize(("optimizer", "copies"), [("adamw", 6), ("adamw_8bit", 4.5)])
def test_the_learner_holds_averages_a_reference_and_gradients(
    needs, monkeypatch: pytest.MonkeyPatch, optimizer: str, copies: float
) -> None:
    """The adapter, its reference, what is published, the gradients of earlier micro-batches, and the averages."""
    monkeypatch.setattr("actors.devices.find_spec", lambda name: name)  # bitsandbytes may be missing
    found = needs("policy.device=cuda", f"learner.optimizer={optimizer}", "learner.ema_decay=0")
    assert found["learner"].device["adapters and optimizer"] == copies * found["sampler"].device["adapter"]


def test_of_a_model_on_the_hub_the_copy_that_was_fetched_is_gone_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(write_config(tmp_path), ["policy.model=org/not-fetched"])
    assert estimate(config, on_gpu=False) == []
    assert caplog.messages == [
        "What the run needs of memory is not known: its actors fetch org/not-fetched, and this machine has no whole "
        "copy; to have one run `hf download org/not-fetched`."
    ]
    fetched = make_pipeline(tmp_path / "fetched")
    monkeypatch.setattr(model_files.DiffusionPipeline, "download", lambda *_, **__: str(fetched))
    assert [need.role for need in estimate(config, on_gpu=False)][:2] == ["sampler", "learner"]
