"""Noise that is a function of its key alone, and rollouts that are a function of weights and request alone."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as img2img
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from actors.config import PolicyConfig
from actors.policy import Policy
from actors.rollout import chain, noise, rollout
from actors.trajectories import EVALUATION, Request

SHAPE = (4, 8, 8)
REQUEST = Request(
    seed=7, iteration=3, prompts=("a red circle",) * 2 + ("two blue squares",) * 2, prompt_index=(5, 5, 6, 6),
    sample_index=(0, 1, 0, 1), stored_steps=(0, 1, 2, 3, 4),
)  # fmt: skip

Nudge = Callable[[Policy], None]


def select(request: Request, rows: list[int]) -> Request:
    """Those samples of a request, in that order."""
    return replace(
        request,
        prompts=tuple(request.prompts[row] for row in rows),
        prompt_index=tuple(request.prompt_index[row] for row in rows),
        sample_index=tuple(request.sample_index[row] for row in rows),
    )


@given(
    rows=st.lists(st.integers(0, 3), min_size=1, max_size=6), step=st.integers(0, 20), share_init_noise=st.booleans()
)
def test_noise_does_not_depend_on_neighbours_or_order(rows: list[int], step: int, share_init_noise: bool) -> None:
    request = replace(REQUEST, share_init_noise=share_init_noise)
    assert torch.equal(noise(select(request, rows).keys, step, SHAPE), noise(request.keys, step, SHAPE)[rows])


def test_every_part_of_the_key_gives_fresh_standard_normal_noise() -> None:
    """Keys that hold the same numbers in other places included."""
    keys = [
        (seed, iteration, prompt, sample, step)
        for seed in (0, 1)
        for iteration in (0, 1, EVALUATION)
        for prompt in (0, 1)
        for sample in (0, 1)
        for step in (0, 1)
    ]
    draws = torch.cat(
        [noise(Request(s, i, ("",), (p,), (n,)).keys, step, (4, 32, 32)).flatten(1) for s, i, p, n, step in keys]
    )
    assert draws.mean(dim=1).abs().max() < 4.5 / math.sqrt(draws.shape[1])
    assert (draws.std(dim=1) - 1).abs().max() < 4.5 / math.sqrt(2 * draws.shape[1])
    correlations = torch.corrcoef(draws) - torch.eye(len(keys))
    assert correlations.abs().max() < 5 / math.sqrt(draws.shape[1])


def test_sharing_the_initial_noise_shares_nothing_else() -> None:
    shared = replace(REQUEST, share_init_noise=True)
    start = noise(shared.keys, 0, SHAPE)
    assert torch.equal(start[0], start[1])
    assert torch.equal(start[2], start[3])
    assert not torch.equal(start[0], start[2])
    for step in range(1, 6):
        assert torch.equal(noise(shared.keys, step, SHAPE), noise(REQUEST.keys, step, SHAPE))
        assert len(noise(shared.keys, step, SHAPE).flatten(1).unique(dim=0)) == 4


def test_a_rollout_repeats_bit_for_bit_whatever_the_process_has_drawn(policy: Policy) -> None:
    torch.manual_seed(1)
    images, first = rollout(policy, REQUEST)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    again, second = rollout(policy, REQUEST)
    assert np.array_equal(images, again)
    for field in ("latents", "next_latents", "log_probs"):
        assert np.array_equal(getattr(first, field), getattr(second, field)), field


def test_a_rollout_leaves_the_global_generators_alone(policy: Policy) -> None:
    before = torch.get_rng_state()
    rollout(policy, REQUEST)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_do_not_depend_on_their_neighbours(policy: Policy) -> None:
    """To rounding: the network's kernels change with the batch shape."""
    _, together = rollout(policy, REQUEST)
    _, some = rollout(policy, select(REQUEST, [3, 0]))
    np.testing.assert_allclose(some.next_latents, together.next_latents[[3, 0]], atol=1e-4)


def test_transitions_chain_from_the_noise_to_the_image(policy: Policy) -> None:
    images, chain = rollout(policy, REQUEST, version=4)
    assert np.array_equal(chain.latents[:, 0], noise(REQUEST.keys, 0, SHAPE).numpy())
    assert np.array_equal(chain.latents[:, 1:], chain.next_latents[:, :-1])
    with torch.no_grad():
        decoded = policy.decode(torch.from_numpy(chain.next_latents[:, -1])).permute(0, 2, 3, 1).numpy()
    assert images.dtype == np.uint8
    assert np.abs(images / 255 - decoded).max() <= 0.5 / 255 + 1e-6
    assert images.shape == (4, 16, 16, 3)
    assert chain.version == 4
    assert chain.prompt_index.tolist() == [5, 5, 6, 6]
    assert all(getattr(chain, name).dtype == np.float32 for name in ("latents", "next_latents", "log_probs"))


def test_log_probs_are_those_of_the_noise_that_was_added(policy: Policy, nudge: Nudge) -> None:
    """A closed form without the network: x_next - mean is std z."""
    nudge(policy)
    _, chain = rollout(policy, REQUEST)
    for step, std in enumerate(policy.transitions.std.tolist()):
        z = noise(REQUEST.keys, step + 1, SHAPE)
        expected = -(z**2).mean(dim=(1, 2, 3)) / 2 - math.log(std) - 0.5 * math.log(2 * math.pi)
        np.testing.assert_allclose(chain.log_probs[:, step], expected, atol=1e-5)


def test_storing_fewer_steps_changes_nothing_else(policy: Policy) -> None:
    images, full = rollout(policy, REQUEST)
    same, some = rollout(policy, replace(REQUEST, stored_steps=(1, 3)))
    assert np.array_equal(images, same)
    assert some.steps.tolist() == [1, 3]
    for field in ("latents", "next_latents", "log_probs"):
        assert np.array_equal(getattr(some, field), getattr(full, field)[:, [1, 3]]), field


def test_a_rollout_for_its_images_alone_stores_no_transition(policy: Policy) -> None:
    images, chain = rollout(policy, replace(REQUEST, stored_steps=()))
    assert chain.latents.shape == (4, 0, *SHAPE)
    assert chain.log_probs.shape == (4, 0)
    assert len(images) == 4


def test_samples_of_a_prompt_that_share_their_start_still_differ(policy: Policy) -> None:
    _, chain = rollout(policy, replace(REQUEST, share_init_noise=True))
    assert np.array_equal(chain.latents[0, 0], chain.latents[1, 0])
    assert np.abs(chain.next_latents[0, 0] - chain.next_latents[1, 0]).max() > 0.1


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_the_weights_and_the_prompt_act(policy_config: PolicyConfig, nudge: Nudge, solver: str) -> None:
    policy = Policy.load(PolicyConfig.model_validate(policy_config.model_dump() | {"solver": solver}))
    _, before = rollout(policy, REQUEST)
    _, renamed = rollout(policy, replace(REQUEST, prompts=("a green star",) * 4))
    nudge(policy)
    _, after = rollout(policy, REQUEST)
    assert np.abs(after.next_latents - before.next_latents).max() > 1e-3
    assert np.abs(renamed.next_latents - before.next_latents).max() > 1e-3


def test_a_picture_that_is_not_finite_is_masked(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = rollout(policy, REQUEST)
    assert type(plain) is np.ndarray
    decode = policy.decode

    def broken(latents: torch.Tensor) -> torch.Tensor:
        images = decode(latents)
        images[2, 1, 3, 3] = float("nan")
        return images

    monkeypatch.setattr(policy, "decode", broken)
    pixels, trajectories = rollout(policy, REQUEST)
    pixels = pickle.loads(pickle.dumps(pixels, protocol=5))  # on its way to the rewards
    assert np.ma.getmaskarray(pixels).all(axis=(1, 2, 3)).tolist() == [False, False, True, False]
    assert np.array_equal(np.ma.getdata(pixels)[[0, 1, 3]], plain[[0, 1, 3]])
    assert np.isfinite(trajectories.latents).all()


def test_a_picture_is_masked_if_a_stored_number_on_its_way_is_not_finite(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = policy.predict

    def overflows(x: torch.Tensor, step: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        prediction = predict(x, step, conditioning)
        if int(step[0]) == 2:
            prediction[1, 0, 0, 0] = float("inf")
        return prediction

    monkeypatch.setattr(policy, "predict", overflows)
    pixels, trajectories = rollout(policy, REQUEST)
    assert np.ma.getmaskarray(pixels).all(axis=(1, 2, 3)).tolist() == [False, True, False, False]
    assert not np.isfinite(trajectories.log_probs[1]).all()


def test_whoever_has_the_keys_goes_the_same_way_again_with_a_graph(policy: Policy) -> None:
    _, stored = rollout(policy, replace(REQUEST, stored_steps=(0, 3), clean=True))
    begin = noise(stored.keys, 0, SHAPE)
    steps = list(chain(policy, begin, policy.encode(stored.prompts), stored.keys))
    assert [step.number for step in steps] == list(range(len(policy.transitions)))
    for column, number in enumerate((0, 3)):
        assert np.array_equal(steps[number].x.detach(), stored.latents[:, column])
        assert np.array_equal(steps[number].x_next.detach(), stored.next_latents[:, column])
    assert stored.clean is not None
    assert np.array_equal(steps[-1].x_next.detach(), stored.clean)
    steps[-1].x_next.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters)


def test_final_latents_travel_only_where_they_are_asked_for(policy: Policy) -> None:
    assert rollout(policy, REQUEST)[1].clean is None


def test_a_rollout_from_images_begins_with_them_noised(policy: Policy) -> None:
    pixels, _ = rollout(policy, REQUEST)
    request = replace(REQUEST, start=pixels, first_step=3, stored_steps=(3,))
    _, stored = rollout(policy, request)
    with torch.no_grad():
        clean = policy.encode_images(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    alpha_bar = policy.transitions.alpha_bar[3]
    expected = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise(REQUEST.keys, 0, SHAPE)
    torch.testing.assert_close(torch.from_numpy(stored.latents[:, 0]), expected)
    with pytest.raises(ValueError, match="images to begin from"):
        replace(request, start=None)
    with pytest.raises(ValueError, match="one image for every prompt"):
        replace(request, start=pixels[:3])
    with pytest.raises(ValueError, match="Step 2 is to be stored, but the chain begins at 3"):
        replace(request, stored_steps=(2, 3))


@pytest.mark.parametrize("strength", [0.35, 0.8, 1.0])
def test_image_to_image_draws_what_diffusers_draws(
    policy_config: PolicyConfig, nudge: Nudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strength: float
) -> None:
    """From pictures of another shape, with a trained adapter; of what the VAE says of them both take the mean."""
    policy = Policy.load(policy_config.model_copy(update={"eta": 0.0, "steps": 10}))
    nudge(policy)
    policy.save_lora(tmp_path)
    drawn = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), np.uint8)
    first = 10 - int(10 * strength)
    request = replace(REQUEST, start=tuple(drawn), first_step=first, stored_steps=(), clean=True)
    _, stored = rollout(policy, request)
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(policy_config.model, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.load_lora_weights(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    monkeypatch.setattr(img2img, "randn_tensor", lambda *args, **kwargs: noise(REQUEST.keys, 0, SHAPE))
    cut = [ImageOps.fit(Image.fromarray(image), (16, 16), Image.Resampling.LANCZOS) for image in drawn]
    theirs = pipeline(
        prompt=list(REQUEST.prompts), image=cut, strength=strength, num_inference_steps=10, guidance_scale=2.0,
        output_type="latent",
    ).images  # fmt: skip
    assert stored.clean is not None
    torch.testing.assert_close(torch.from_numpy(stored.clean), theirs, atol=1e-4, rtol=1e-4)


def test_a_chain_that_begins_within_stores_no_step_before(policy: Policy) -> None:
    policy.transitions = replace(policy.transitions, first_step=3)
    assert policy.transitions.stochastic_steps == (3, 4)
