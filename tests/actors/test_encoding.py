"""Given pictures: encoded by the family's own encoder, cut and resized the same way everywhere, and none at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import ray
import torch
from PIL import Image, ImageOps

from actors.config import PolicyConfig
from actors.encoding import encode
from actors.policy import Policy
from actors.sampler import Sampler
from actors.trajectories import Request

PICTURES = tuple(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
                 for height, width in ((16, 16), (30, 20), (7, 40)))  # fmt: skip
REQUEST = Request(1, 2, ("a", "a", "b"), (4, 4, 5), (0, 1, 0), clean=True, start=PICTURES)


def test_trajectories_are_the_pictures_latents_and_nothing_else(
    policy: Policy, nudge: Callable[[Policy], None]
) -> None:
    nudge(policy)  # the adapter takes no part
    pixels, found = encode(policy, REQUEST, version=7)
    fitted = [np.asarray(ImageOps.fit(Image.fromarray(p), (16, 16), Image.Resampling.LANCZOS)) for p in PICTURES]
    assert np.array_equal(pixels, fitted)
    assert np.array_equal(pixels[0], PICTURES[0])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        assert np.array_equal(found.clean, policy.encode_images(images).numpy())
    assert found.latents.shape == found.next_latents.shape == (3, 0, *policy.latent_shape)
    assert found.log_probs.shape == (3, 0)
    assert (found.prompts, found.version, found.prompt_index.tolist()) == (("a", "a", "b"), 7, [4, 4, 5])
    assert np.array_equal(found.keys, REQUEST.keys)


def test_no_pictures_are_as_good(policy: Policy) -> None:
    pixels, found = encode(policy, Request(1, 2, (), (), (), clean=True, start=()))
    assert pixels.shape == (0, 16, 16, 3)
    assert found.clean is not None
    assert found.clean.shape == (0, *policy.latent_shape)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_sampler_says_what_was_read_and_sends_pictures_to_those_alone_who_want_them(
    policy: Policy, policy_config: PolicyConfig, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    monkeypatch.setattr(ray, "get_actor", lambda name: None)  # no weights are asked for
    sampler, asked = Sampler(policy_config, "weights", "sampler-3"), []

    def read(reads_whole: Callable) -> tuple[Request, dict]:
        asked.append(reads_whole(["short", "long " * 200, "long " * 200, "é"]))
        return REQUEST, {"counts": 5}

    receipt, pixels, found = sampler.encode(read, 9, wanted)
    expected_pixels, expected = encode(policy, REQUEST, 9)
    assert asked == [[True, False, False, True]]
    assert receipt["request"] == REQUEST
    assert receipt["request"].start is None
    assert (receipt["version"], receipt["actor"], receipt["counts"]) == (9, "sampler-3", 5)
    assert np.array_equal(pixels, expected_pixels) if wanted else pixels is None
    assert np.array_equal(found.clean, expected.clean)
