"""What ships in `shapes/pretrained`: small, loadable, and good enough to be worth training on."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from shapes import FLOW_PIPELINE, PIPELINE, PIPELINES, SCORER
from shapes.captions import COLOURS, KINDS, NUMBERS, PLACES, SHAPES, Caption, Thing, all_captions, sample_caption
from shapes.judge import gold_score
from shapes.pretrain import sample
from shapes.render import SIZE, render
from shapes.scorer import Scorer, tokenize


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.from_pretrained(SCORER).float().eval().requires_grad_(False)


@pytest.mark.parametrize(("folder", "megabytes"), [(PIPELINE, 8), (SCORER, 2)], ids=["pipeline", "scorer"])
def test_the_download_is_small(folder: Path, megabytes: int) -> None:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert 0 < size <= megabytes * 2**20


def test_the_twin_adds_little_and_shares_the_rest() -> None:
    own = [file for file in FLOW_PIPELINE.glob("*/*") if file.is_file() and not file.parent.is_symlink()]
    assert {file.parent.name for file in own} == {"unet", "scheduler"}
    assert sum(file.stat().st_size for file in own) <= 4_000_000
    for name in ("vae", "text_encoder", "tokenizer"):
        assert (FLOW_PIPELINE / name).samefile(PIPELINE / name)


@pytest.mark.parametrize("folder", PIPELINES.values(), ids=PIPELINES)
def test_the_pipeline_loads_and_draws_without_any_options(folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["a green circle", "four blue stars on a black background"]
    images = pipeline(prompts, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, SIZE, SIZE, 3)
    assert np.isfinite(images).all()


def test_the_shipped_tokenizer_makes_one_token_of_every_word() -> None:
    tokenizer = StableDiffusionPipeline.from_pretrained(PIPELINE, dtype=torch.float32).tokenizer
    texts = [caption.text for kind in KINDS for caption in all_captions(kind)]
    assert [len(ids) for ids in tokenizer(texts).input_ids] == [len(text.split()) + 2 for text in texts]
    assert tokenizer.batch_decode(tokenizer(texts).input_ids, skip_special_tokens=True) == texts


def _near_misses(caption: Caption) -> list[Caption]:
    """Captions that a picture of this one contradicts in one fact."""
    first, *rest = caption.things
    keep = (caption.place, caption.background)
    if caption.kind == "count":
        things = [(Thing(c, first.shape),) * len(caption.things) for c in COLOURS if c != first.colour]
        things += [(Thing(first.colour, s),) * len(caption.things) for s in SHAPES if s != first.shape]
        things += [(first,) * n for n in (1, *NUMBERS) if n != len(caption.things)]
        return [Caption(t, *keep) for t in things]
    misses = [Caption((Thing(c, first.shape), *rest), *keep) for c in COLOURS if c != first.colour]
    misses += [Caption((Thing(first.colour, s), *rest), *keep) for s in SHAPES if s != first.shape]
    if rest:
        misses.append(Caption((Thing(rest[0].colour, first.shape), Thing(first.colour, rest[0].shape)), *keep))
    if caption.place:
        misses += [Caption(caption.things, place, caption.background) for place in PLACES if place != caption.place]
    return misses


@pytest.mark.parametrize("held_out", [False, True])
def test_the_scorer_ranks_the_true_caption_above_a_near_miss(scorer: Scorer, held_out: bool) -> None:
    rng = random.Random(0)
    captions = [sample_caption(rng, held_out=held_out) for _ in range(128)]
    misses = [rng.choice(_near_misses(caption)) for caption in captions]
    pixels = np.stack([render(caption, rng) for caption in captions])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    true, false = (scorer(images, tokenize([c.text for c in side])) for side in (captions, misses))
    assert (true > false).float().mean() >= 0.85


@pytest.mark.parametrize("folder", PIPELINES.values(), ids=PIPELINES)
def test_the_pipeline_follows_its_prompts(folder: Path) -> None:
    """Far better under the prompt than under another image's, and neither hopeless nor finished."""
    torch.manual_seed(0)
    rng = random.Random(0)
    captions = [sample_caption(rng) for _ in range(64)]
    images = sample(StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32), captions)
    own = np.mean([gold_score(image, caption) for image, caption in zip(images, captions, strict=True)])
    other = np.mean([gold_score(image, captions[i - 1]) for i, image in enumerate(images)])
    assert own > other + 0.15
    assert 0.3 < own < 0.97
