"""What every family is put through, on a tiny pipeline in its published format: one row of `FAMILIES` a family."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from actors.adapters import FILE
from actors.config import PolicyConfig
from actors.folded import FoldedLinear
from actors.model_check import check_model, check_prompts
from actors.policy import Policy
from actors.rollout import noise, rollout
from actors.trajectories import Request
from learner.batch import Batch, collate
from learner.flow_function import FlowConfig
from learner.learner import Learner, LearnerConfig
from learner.likelihood import largest_log_ratio
from learner.objectives.ppod import PPODConfig
from learner.objectives.residual_nabla_db import ResidualNablaDBConfig
from tests.support.redness import Redness
from tests.support.tiny import make_pipeline
from tests.support.tiny_flow import make_flux, make_klein, make_sd3, pack_flux, state_of_klein, unpack_flux
from tests.support.tiny_sdxl import make_sdxl

Nudge = Callable[..., None]
PROMPTS = ("a red circle", "two blue squares")
SCORES = np.array([0.3, -1.0, 2.0, 0.1, 0.7, -0.4], np.float32)


@dataclass(frozen=True)
class Family:
    """A family's row.

    Args:
        write: Writes its tiny pipeline into a folder, as diffusers saves it, and returns that.
        size: Height and width in pixels that it can draw, not its own, and not alike.
        settings: Of the policy, where the family wants others than `config_of` gives; such that without noise it goes
            the steps that the plain pipeline goes.
        call: Of the plain pipeline, what it wants beside prompt, guidance, steps, size and latents.
        pack: From noise `(B, *latent_shape)` to the `latents` that the plain pipeline takes.
        unpack: From the plain pipeline's latents, and our shape of them, back.
        load: Of the plain pipeline, what it wants beside the folder.
        optional: Parts that the folder may lack.
        lacks: Settings of the policy that the plain pipeline has nothing for.
        negative: How the plain pipeline is told negative prompts, where it has them.
        windows: Most that `policy.prompt_windows` may be.
        final_sigma: Noise that its chain may leave, less than what its last step begins with.
        lr: With which three steps do not overshoot.
    """

    write: Callable[[Path], Path]
    size: tuple[int, int]
    settings: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    pack: Callable[[Tensor], Tensor] = lambda latents: latents
    unpack: Callable[[Tensor, torch.Size], Tensor] = lambda latents, _: latents
    load: dict[str, Any] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    negative: Callable[[Any, list[str]], dict[str, Any]] = lambda _, prompts: {"negative_prompt": prompts}
    windows: int = 1
    final_sigma: float = 0.03
    lr: float = 1e-3


FAMILIES = {
    "sd": Family(make_pipeline, (8, 24), windows=64),
    "sdxl": Family(make_sdxl, (8, 24), windows=64),
    "sd3": Family(
        make_sd3,
        (8, 24),
        optional=("text_encoder_3",),
        lacks=("guidance_rescale",),
        windows=2,
        final_sigma=0.005,
        lr=1e-4,
    ),
}

SMALL = {"height": 16, "width": 16}
UNGUIDED = ("negative_prompt", "guidance_rescale")  # where no second prediction is led away from
FAMILIES |= {
    "flux_dev": Family(make_flux, (8, 24), SMALL, pack=pack_flux, unpack=unpack_flux, lacks=UNGUIDED, lr=1e-4),
    "flux2_klein": Family(
        make_klein,
        (8, 24),
        SMALL,
        unpack=state_of_klein,
        lacks=("guidance_rescale",),
        negative=lambda pipeline, prompts: {"negative_prompt_embeds": pipeline.encode_prompt(prompts)[0]},
        lr=1e-4,
    ),
    "flux_schnell": Family(
        lambda folder: make_flux(folder, guidance=False),
        (8, 24),
        SMALL | {"guidance": 1.0},
        call={"max_sequence_length": 256},
        pack=pack_flux,
        unpack=unpack_flux,
        lacks=UNGUIDED,
        lr=1e-4,
    ),
}


# The largest of them, for the part of the tests that is slow.
ROWS = [pytest.param(name, marks=pytest.mark.slow) if name == "flux2_klein" else name for name in FAMILIES]


@pytest.fixture(scope="module", params=ROWS)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family.write(tmp_path_factory.mktemp("family") / "pipeline")


def config_of(family: Family, folder: Path, **values: Any) -> PolicyConfig:
    settings = {"steps": 4, "guidance": 2.0, "lora_rank": 2, "lora_alpha": 4, **family.settings, **values}
    return PolicyConfig(model=str(folder), device="cpu", **settings)


@pytest.fixture
def policy(family: Family, folder: Path) -> Policy:
    return Policy.load(config_of(family, folder))


def request_of(stored: Sequence[int] = ()) -> Request:
    """Two prompts, three samples each."""
    texts = tuple(prompt for prompt in PROMPTS for _ in range(3))
    return Request(0, 0, texts, (0, 0, 0, 1, 1, 1), (0, 1, 2) * 2, tuple(stored), clean=True)


def draw(policy: Policy) -> Batch:
    _, trajectories = rollout(policy, request_of(policy.transitions.stochastic_steps))
    return collate([trajectories], SCORES)


def test_a_rollout_draws_and_the_learner_finds_its_probabilities(policy: Policy) -> None:
    pixels, trajectories = rollout(policy, request_of(policy.transitions.stochastic_steps))
    assert pixels.dtype == np.uint8
    assert pixels.shape[::3] == (6, 3)
    assert len(np.unique(pixels.reshape(6, -1), axis=0)) == 6
    assert np.isfinite(trajectories.log_probs).all()
    assert largest_log_ratio(policy, collate([trajectories], SCORES), micro_batch=4) <= 1e-5


def test_its_layers_are_folded(policy: Policy) -> None:
    """No layer of a kind of its own has turned that off for the whole network (`actors.adapters.add_adapter`)."""
    layers = [layer for layer in policy.network.modules() if isinstance(layer, LoraLayer)]
    assert {type(layer) for layer in layers} == {FoldedLinear}


def test_ppod_takes_a_step_towards_what_is_preferred(family: Family, policy: Policy) -> None:
    batch = draw(policy)
    objective = PPODConfig(steps_per_update=None, step_fraction=1.0, kl_weight=0.0).build()
    learner = Learner(LearnerConfig(lr=family.lr, micro_batch=8), policy, objective)
    first, *_, last = [learner.step(batch).metrics for _ in range(3)]
    assert first["ratio/first"] <= 1e-5
    assert last["loss"] < first["loss"]


def test_residual_nabla_db_takes_a_step_along_the_rewards_gradient(family: Family, folder: Path) -> None:
    """It needs noise in the last step too, which most models' schedulers leave out."""
    policy = Policy.load(config_of(family, folder, final_sigma=family.final_sigma))
    before = policy.weights()[0].copy()
    objective = ResidualNablaDBConfig(
        flow=FlowConfig(widths=(8,), heads=2, groups=4), step_fraction=1.0, beta=2.0, updates=1
    ).build()
    learner = Learner(LearnerConfig(micro_batch=8), policy, objective, reward=Redness())
    metrics = learner.step(draw(policy)).metrics
    assert metrics["size/reward_gradient"] > 0
    assert np.isfinite(list(metrics.values())).all()
    assert np.isfinite(policy.weights()[0]).all()
    assert not np.array_equal(policy.weights()[0], before)


@torch.no_grad()
def test_with_adapters_off_it_is_the_pretrained_model(policy: Policy, nudge: Nudge) -> None:
    x = noise(request_of().keys, 0, policy.latent_shape)
    steps, told = torch.zeros(6, dtype=torch.int64), policy.encode(request_of().prompts)
    fresh = policy.predict(x, steps, told)
    nudge(policy)
    assert not torch.equal(policy.predict(x, steps, told), fresh)
    with policy.using(None):
        torch.testing.assert_close(policy.predict(x, steps, told), fresh, atol=5e-7, rtol=0)


@pytest.mark.parametrize("trained", [False, True], ids=["pretrained", "trained"])
@pytest.mark.parametrize(
    "values",
    [{}, {"size": True}, {"guidance": 1.0}, {"negative_prompt": "a green star", "guidance_rescale": 0.7}],
    ids=str,
)
def test_without_noise_it_draws_what_the_plain_pipeline_draws(
    family: Family, folder: Path, nudge: Nudge, tmp_path: Path, values: dict[str, Any], trained: bool
) -> None:
    """From the same noise, also as it is trained: with the adapter's alpha, read by diffusers from a checkpoint."""
    asked, values = values, {name: value for name, value in values.items() if name not in family.lacks}
    if asked and not values:
        pytest.skip("the family has none of these settings")
    size = dict(zip(("height", "width"), family.size, strict=True)) if values.pop("size", False) else {}
    policy = Policy.load(config_of(family, folder, eta=0.0, **size, **values))
    pipeline = DiffusionPipeline.from_pretrained(folder, **family.load)
    pipeline.set_progress_bar_config(disable=True)
    if trained:
        nudge(policy, 0.1)
        policy.save_lora(tmp_path)
        pipeline.load_lora_weights(tmp_path)
    request = request_of()
    start = noise(request.keys, 0, policy.latent_shape)
    height, width = policy.decode(start).shape[2:]
    assert not size or (height, width) == family.size
    names = {"guidance": "guidance_scale"}
    settings = {names.get(name, name): value for name, value in values.items()}
    if policy.config.negative_prompt:
        del settings["negative_prompt"]
        settings |= family.negative(pipeline, [policy.config.negative_prompt] * 6)

    def plain(output: str) -> Any:
        said = {"guidance_scale": policy.config.guidance, "num_inference_steps": policy.config.steps, **settings}
        return pipeline(
            prompt=list(request.prompts), latents=family.pack(start), height=height, width=width, output_type=output,
            **said, **family.call,
        ).images  # fmt: skip

    ours = torch.from_numpy(rollout(policy, request)[1].clean)
    theirs = family.unpack(plain("latent"), ours.shape)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        pictures = policy.decode(ours).permute(0, 2, 3, 1)
    torch.testing.assert_close(pictures, torch.from_numpy(plain("np")), atol=1e-5, rtol=0)
    if trained:
        with policy.using(None):
            assert (torch.from_numpy(rollout(policy, request)[1].clean) - ours).abs().max() > 1e-3


def test_another_size_is_drawn_and_trained_on(family: Family, folder: Path) -> None:
    height, width = family.size
    policy = Policy.load(config_of(family, folder, height=height, width=width))
    pixels, _ = rollout(policy, request_of())
    assert pixels.shape == (6, height, width, 3)
    objective = PPODConfig(steps_per_update=None, step_fraction=1.0, kl_weight=0.0).build()
    assert Learner(LearnerConfig(micro_batch=8), policy, objective).step(draw(policy)).metrics["ratio/first"] <= 1e-5


# Where the sampler rounds in another way than the learner: only by its batch, or also by its kernels.
SAMPLERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "batch": nullcontext,
    "matrix products": lambda: torch.backends.mkldnn.flags(enabled=False),
    "attention": lambda: sdpa_kernel(SDPBackend.MATH),
}


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("other", SAMPLERS)
def test_ratios_of_bfloat16_begin_at_one_however_its_sampler_rounds(
    family: Family, folder: Path, nudge: Nudge, request: pytest.FixtureRequest, other: str
) -> None:
    """Sampled six at a time, trained on four at a time. `pytest -s` shows the figures that are in docs/models.md."""
    policy = Policy.load(config_of(family, folder, dtype="bfloat16"))
    nudge(policy, 0.03)
    with SAMPLERS[other]():
        batch = draw(policy)
    objective = PPODConfig(steps_per_update=None, step_fraction=1.0, kl_weight=0.0).build()
    bound = 1.0 if other == "attention" else 5e-3  # the learner's own for half precision
    metrics = Learner(LearnerConfig(micro_batch=4, ratio_tolerance=bound), policy, objective).step(batch).metrics
    print(f"\n{request.node.callspec.params['family']}: other {other}, ratio/spread {metrics['ratio/spread']:.1e}")
    assert metrics["ratio/first"] <= 1e-6
    assert (1e-5 if other == "attention" else 0) <= metrics["ratio/spread"] <= bound


@torch.no_grad()
def test_the_encoder_is_the_decoders_inverse_in_shape_and_scale(policy: Policy) -> None:
    """A tiny autoencoder is not trained, so what comes back is another picture; but its latents are of one scale."""
    latents = noise(request_of().keys, 0, policy.latent_shape)
    images = policy.decode(latents)
    assert images.shape[:2] == (6, 3)
    assert 0 <= images.min() <= images.max() <= 1
    again = policy.encode_images(images)
    assert again.shape == latents.shape
    assert again.dtype == torch.float32
    assert again.isfinite().all()


def refused(config: PolicyConfig, said: str) -> None:
    """Alike before it is loaded and by what loads it, in one sentence."""
    for use in (check_model, Policy.load):
        with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
            use(config)
        assert str(caught.value).endswith(".")
        assert "\n" not in str(caught.value)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the pipeline, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "model"))


def parts_of(folder: Path) -> dict[str, list[str]]:
    """The parts that a pipeline's index names, its scheduler left out: that is the solver's test."""
    index = json.loads((folder / "model_index.json").read_text())
    return {
        name: entry
        for name, entry in index.items()
        if isinstance(entry, list) and entry[0] is not None and name != "scheduler"
    }


def test_a_part_that_is_missing_or_another_is_named(family: Family, copy: Path) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    for part in parts_of(copy):
        for entry in ([None, None],) * (part not in family.optional) + (["transformers", "BertModel"],):
            (copy / "model_index.json").write_text(json.dumps(index | {part: entry}))
            refused(config_of(family, copy), rf"{copy} needs a \w+ as its {part}, but")
    (copy / "model_index.json").write_text(json.dumps(index))
    for part in parts_of(copy):
        hidden = copy / part
        hidden.rename(copy / "hidden")
        refused(config_of(family, copy), str(hidden))
        (copy / "hidden").rename(hidden)
    check_model(config_of(family, copy))


def test_another_pipeline_and_no_pipeline_are_named(family: Family, copy: Path, tmp_path: Path) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    inpainting = index["_class_name"].replace("Pipeline", "InpaintPipeline")
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": inpainting}))
    refused(config_of(family, copy), f"{copy} is a {inpainting}, but only text to image")
    refused(config_of(family, tmp_path), "no diffusers pipeline")


def test_a_size_that_cannot_be_drawn_is_refused(family: Family, folder: Path) -> None:
    refused(config_of(family, folder, width=family.size[1] + 1), rf"policy\.width is {family.size[1] + 1}, but")
    refused(config_of(family, folder, height=1), r"policy\.height is 1, but")


def test_an_adapter_goes_on_and_one_of_another_model_is_refused(
    family: Family, folder: Path, policy: Policy, nudge: Nudge, tmp_path: Path
) -> None:
    nudge(policy)
    policy.save_lora(tmp_path)
    config = config_of(family, folder, init_lora=str(tmp_path / FILE))
    assert check_model(config) is not None
    assert np.array_equal(Policy.load(config, seed=7).weights()[0], policy.weights()[0])
    other = config_of(family, folder, init_lora=str(tmp_path / "other.safetensors"))
    tensors = load_file(tmp_path / FILE)
    save_file({name: torch.zeros(2, 3) for name in tensors}, tmp_path / "other.safetensors")
    refused(other, "another base model")
    save_file(tensors | {"text_encoder.a.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    refused(other, "adapts text_encoder too")


def test_prompts_are_told_apart_to_their_end_or_refused(family: Family, folder: Path, policy: Policy) -> None:
    long = "a red circle " * 1000
    with pytest.raises(ValueError, match=r"policy\.prompt_windows"):
        policy.encode([long])
    with pytest.raises(ValueError, match=rf"can be told {family.windows}; shorten what is longer\.$"):
        check_prompts(config_of(family, folder), [long])
    if "negative_prompt" not in family.lacks:
        refused(config_of(family, folder, negative_prompt=long), "; shorten what is longer")
    if family.windows > 1:
        config, some = config_of(family, folder), "a red circle " * 25
        with pytest.raises(ValueError, match=r"; set policy\.prompt_windows=\d+, or shorten") as caught:
            check_prompts(config, [some])
        number = int(str(caught.value).split("prompt_windows=")[1].split(",")[0])
        advised = config.model_copy(update={"prompt_windows": number})
        check_model(advised)
        check_prompts(advised, [some])
    told = policy.encode(PROMPTS)
    assert told["text"].shape[::2] == (2, policy.text_width)
    for name in told:
        alone = torch.cat([Policy.encode(policy, [prompt])[name] for prompt in PROMPTS])
        assert torch.equal(told[name], alone)
