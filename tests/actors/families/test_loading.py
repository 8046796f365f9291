"""Loading a pipeline: without weights, thriftily, and its parts where they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel

from actors.config import PolicyConfig
from actors.families.sd import StableDiffusion
from actors.policy import Policy
from tests.support.tiny import make_pipeline

META, CPU = torch.device("meta"), torch.device("cpu")


def test_on_the_meta_device_a_family_has_the_shapes_of_the_loaded_one(tiny_pipeline: Path) -> None:
    config = PolicyConfig(model=str(tiny_pipeline))
    blank = StableDiffusion.load(tiny_pipeline, config, META, torch.bfloat16)
    loaded = StableDiffusion.load(tiny_pipeline, config, CPU, torch.bfloat16)

    tensors = {name: (t.shape, t.dtype, t.device.type) for name, t in blank.network.state_dict().items()}
    expected = {name: (t.shape, t.dtype, "meta") for name, t in loaded.network.state_dict().items()}
    x, time = torch.randn(2, *loaded.latent_shape), torch.tensor([3, 700])
    prompts = ["a red circle", "a star"]

    assert tensors == expected
    for of_blank, of_loaded in (
        (blank.condition(prompts)["text"], loaded.condition(prompts)["text"]),
        (
            blank.predict(x.to(META), time.to(META), blank.condition(prompts)),
            loaded.predict(x, time, loaded.condition(prompts)),
        ),
        (blank.decode(x.to(META)), loaded.decode(x)),
    ):
        assert (of_blank.shape, of_blank.dtype, of_blank.device) == (of_loaded.shape, of_loaded.dtype, META)


@pytest.mark.parametrize(("encoders", "moved"), [("device", True), ("cpu", False)])
def test_text_encoders_stay_on_the_cpu_where_that_is_asked_for(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch, encoders: str, moved: bool
) -> None:
    devices = []
    original = CLIPTextModel.to
    monkeypatch.setattr(CLIPTextModel, "to", lambda self, *args: devices.append(args) or original(self, *args))
    Policy.load(PolicyConfig(model=str(tiny_pipeline), device="cpu", encoders=encoders)).encode(["a star"])
    assert ((CPU,) in devices) is moved


def test_slices_decode_to_the_same_pictures_one_at_a_time(tiny_pipeline: Path) -> None:
    together, sliced = (
        Policy.load(PolicyConfig(model=str(tiny_pipeline), device="cpu", vae_slicing=slicing))
        for slicing in (False, True)
    )
    latents = torch.randn(3, *together.latent_shape, generator=torch.Generator().manual_seed(0))
    sizes: list[int] = []
    sliced._family._autoencoder._network.decoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))

    assert torch.allclose(sliced.decode(latents), together.decode(latents), atol=1e-6)
    assert sizes == [1, 1, 1]


def test_tiles_of_a_large_picture_decode_one_at_a_time(tmp_path: Path) -> None:
    model = make_pipeline(tmp_path / "pipeline", unet={"sample_size": 16})
    policy = Policy.load(PolicyConfig(model=str(model), device="cpu", vae_tiling=True))
    sizes: list[torch.Size] = []
    policy._family._autoencoder._network.decoder.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape))

    assert policy.decode(torch.zeros(1, 4, 16, 16)).shape == (1, 3, 32, 32)
    assert len(sizes) > 1
    assert max(size[-1] for size in sizes) <= 8
