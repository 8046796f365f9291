"""The training of the world's Stable Diffusion, a few steps of it: tokenizer, autoencoder, denoiser."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from shapes import pretrain
from shapes.captions import KINDS, all_captions, parse, sample_caption
from shapes.fit_pipeline import encode, fit_autoencoder, fit_denoiser, reconstruct, to_tensor
from shapes.networks import MAX_TOKENS, make_autoencoder, make_tokenizer, make_untrained
from shapes.render import render
from shapes.worlds import FIRST, SECOND

SIZE = FIRST.size
TEXTS = [caption.text for kind in KINDS for caption in all_captions(kind)]
WORDS = sorted({word for text in TEXTS for word in text.split()})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    vae = make_autoencoder()
    fit_autoencoder(vae, draw, 2, 2)
    return vae


def draw(count: int, seed: int = 0) -> np.ndarray:
    rng = random.Random(seed)
    return np.stack([render(sample_caption(rng, held_out=None), rng) for _ in range(count)])


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return draw(128, seed=1)


@pytest.fixture(scope="module")
def pipeline(vae: AutoencoderKL, tokenizer: CLIPTokenizer, pictures: np.ndarray) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    pipeline = make_untrained(vae, tokenizer)
    fit_denoiser(pipeline, TEXTS[:4], pictures[:4], 2, 2)
    return pipeline


def test_every_word_of_the_grammar_is_one_token_of_its_own(tokenizer: CLIPTokenizer) -> None:
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in WORDS]
    assert [word for word, tokens in zip(WORDS, ids, strict=True) if len(tokens) != 1] == []
    assert len({tokens[0] for tokens in ids}) == len(WORDS)


def test_the_second_worlds_networks_fit_its_words_and_pictures(tmp_path: Path) -> None:
    tokenizer, vae = make_tokenizer(tmp_path, SECOND), make_autoencoder(SECOND)
    texts = [caption.text for kind in KINDS for caption in all_captions(kind, world=SECOND)]
    ids = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS).input_ids
    assert {len(row) for row in ids} == {MAX_TOKENS}
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == texts
    pipeline = make_untrained(vae, tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(texts[:2], num_inference_steps=1, output_type="np").images
    assert images.shape == (2, SECOND.size, SECOND.size, 3)


def test_captions_come_back_from_their_tokens(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer(TEXTS, padding="max_length", max_length=MAX_TOKENS).input_ids
    assert {len(row) for row in ids} == {MAX_TOKENS}
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == TEXTS


def test_captions_keep_their_begin_and_end(tokenizer: CLIPTokenizer) -> None:
    for text in TEXTS[::50]:
        ids = tokenizer(text).input_ids
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert len(ids) == len(text.split()) + 2


def test_words_outside_the_grammar_are_spelt(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("zebra", add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == "zebra"


def test_a_reloaded_tokenizer_gives_the_same_tokens(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    assert CLIPTokenizer.from_pretrained(tmp_path)(TEXTS[::20]).input_ids == tokenizer(TEXTS[::20]).input_ids


def test_making_the_tokenizer_again_gives_the_same_files(tmp_path: Path) -> None:
    """The text encoder's weights are tied to the ids, and pretraining promises the same files for a seed."""
    for i in range(6):
        make_tokenizer(tmp_path / str(i))
    for name in ("vocab.json", "merges.txt"):
        assert len({(tmp_path / str(i) / name).read_text() for i in range(6)}) == 1, name


def test_to_tensor_maps_bytes_to_minus_one_and_one() -> None:
    pixels = np.array([0, 255, 51], np.uint8).reshape(1, 1, 1, 3)
    torch.testing.assert_close(to_tensor(pixels).flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_latents_are_a_quarter_wide_and_of_unit_scale(vae: AutoencoderKL, pictures: np.ndarray) -> None:
    """The factor that makes it so travels in the autoencoder's config, as in Stable Diffusion."""
    latents = encode(vae, pictures)
    assert latents.shape == (len(pictures), 4, SIZE // 4, SIZE // 4)
    assert latents.std().item() == pytest.approx(1.0, rel=0.05)


def test_the_autoencoder_comes_out_frozen(vae: AutoencoderKL) -> None:
    assert not vae.training
    assert not any(parameter.requires_grad for parameter in vae.parameters())


def test_encoding_does_not_depend_on_the_batch_size(vae: AutoencoderKL, pictures: np.ndarray) -> None:
    torch.testing.assert_close(encode(vae, pictures[:5], batch=2), encode(vae, pictures[:5]), rtol=1e-3, atol=1e-4)


def test_reconstructions_are_pictures(vae: AutoencoderKL, pictures: np.ndarray) -> None:
    again = reconstruct(vae, pictures[:5], batch=2)
    assert again.shape == (5, SIZE, SIZE, 3)
    assert again.dtype == np.uint8
    whole = reconstruct(vae, pictures[:5])
    assert np.abs(again.astype(int) - whole.astype(int)).max() <= 1


@pytest.mark.slow
def test_the_autoencoder_learns_to_reconstruct(pictures: np.ndarray) -> None:
    """Clearly better than the plain background, in squared error: all but the objects is right there already."""
    torch.manual_seed(0)
    rng = random.Random(0)
    vae = make_autoencoder()
    fit_autoencoder(vae, lambda count: draw(count, seed=rng.randrange(2**32)), 150, 16)
    again = reconstruct(vae, pictures)
    flat = np.median(pictures, axis=(1, 2), keepdims=True)
    assert np.square(again - pictures.astype(float)).mean() < 0.7 * np.square(flat - pictures).mean()


@pytest.mark.slow
def test_the_denoiser_never_sees_a_held_out_caption(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[str] = []

    def spy(pipeline: StableDiffusionPipeline, texts: list[str], *rest: object) -> None:
        seen.extend(texts)

    monkeypatch.setattr(pretrain, "fit_denoiser", spy)
    words = ["--out", str(tmp_path), "--autoencoder-steps", "2", "--decoder-steps", "2", "--scorer-steps", "2"]
    monkeypatch.setattr(sys, "argv", ["pretrain", *words, "--pictures", "100", "--images", "16"])
    pretrain.main()
    assert len(seen) == 100
    assert not any(parse(text).held_out for text in seen)


def test_the_pipeline_draws_and_survives_being_saved(pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    def images(of: StableDiffusionPipeline) -> np.ndarray:
        of.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        prompts = ["a green circle", "four blue stars on a black background"]
        return of(prompts, num_inference_steps=2, generator=generator, output_type="np").images

    pipeline.save_pretrained(tmp_path)
    first = images(pipeline)
    assert first.shape == (2, SIZE, SIZE, 3)
    np.testing.assert_allclose(images(StableDiffusionPipeline.from_pretrained(tmp_path)), first, atol=1e-4)


def test_the_prompt_reaches_the_denoiser(pipeline: StableDiffusionPipeline) -> None:
    noise = torch.randn(1, 4, SIZE // 4, SIZE // 4, generator=torch.Generator().manual_seed(0))

    def predict(prompt: str) -> torch.Tensor:
        ids = pipeline.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            return pipeline.unet(noise, 500, pipeline.text_encoder(ids).last_hidden_state).sample

    assert not torch.allclose(predict("a green circle"), predict("four blue stars"), atol=1e-5)
