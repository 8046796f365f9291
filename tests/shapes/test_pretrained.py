"""What ships in `shapes/pretrained`: small, loadable, and good enough to be worth training on."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from shapes import FLOW_PIPELINE, FOLDERS, PIPELINE, PIPELINES, SCORERS
from shapes.captions import KINDS, Caption, Thing, all_captions, sample_caption
from shapes.judge import gold_score
from shapes.pretrain import sample
from shapes.render import render
from shapes.scorer import Scorer
from shapes.worlds import WORLDS, World

WORLD_OF = {"shapes": WORLDS["first"], "shapes_flow": WORLDS["first"], "shapes_second": WORLDS["second"]}
everywhere = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


@pytest.mark.parametrize(("part", "megabytes"), [("pipeline", 8), ("scorer", 2)])
@everywhere
def test_the_download_is_small(world: World, part: str, megabytes: int) -> None:
    size = sum(file.stat().st_size for file in (FOLDERS[world.name] / part).rglob("*") if file.is_file())
    assert 0 < size <= megabytes * 2**20


def test_the_second_world_takes_at_most_eight_megabytes() -> None:
    assert sum(file.stat().st_size for file in FOLDERS["second"].rglob("*") if file.is_file()) <= 8_000_000


def test_the_twin_adds_little_and_shares_the_rest() -> None:
    own = [file for file in FLOW_PIPELINE.glob("*/*") if file.is_file() and not file.parent.is_symlink()]
    assert {file.parent.name for file in own} == {"unet", "scheduler"}
    assert sum(file.stat().st_size for file in own) <= 4_000_000
    for name in ("vae", "text_encoder", "tokenizer"):
        assert (FLOW_PIPELINE / name).samefile(PIPELINE / name)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_pipeline_loads_and_draws_without_any_options(name: str) -> None:
    pipeline, world = StableDiffusionPipeline.from_pretrained(PIPELINES[name]), WORLD_OF[name]
    pipeline.set_progress_bar_config(disable=True)
    prompts = [all_captions(kind, world=world)[-1].text for kind in ("colour", "count")]
    images = pipeline(prompts, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, world.size, world.size, 3)
    assert np.isfinite(images).all()


@everywhere
def test_the_shipped_tokenizer_makes_one_token_of_every_word(world: World) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(FOLDERS[world.name] / "pipeline" / "tokenizer")
    texts = [caption.text for kind in KINDS for caption in all_captions(kind, world=world)]
    assert [len(ids) for ids in tokenizer(texts).input_ids] == [len(text.split()) + 2 for text in texts]
    assert tokenizer.batch_decode(tokenizer(texts).input_ids, skip_special_tokens=True) == texts


def _near_misses(caption: Caption) -> list[Caption]:
    """Captions that a picture of this one contradicts in one fact."""
    first, *rest = caption.things
    count, world = len(caption.things), caption.world
    things = [Thing(c, first.shape) for c in world.colours if c != first.colour]
    things += [Thing(first.colour, s) for s in world.shapes if s != first.shape]
    if caption.kind == "count":
        misses = [replace(caption, things=(thing,) * count) for thing in things]
        return misses + [replace(caption, things=(first,) * n) for n in (1, *world.numbers) if n != count]
    misses = [replace(caption, things=(thing, *rest)) for thing in things]
    if rest:
        swapped = Thing(rest[0].colour, first.shape), Thing(first.colour, rest[0].shape)
        misses.append(replace(caption, things=swapped))
    if caption.place:
        misses += [replace(caption, place=place) for place in world.places if place != caption.place]
    return misses


@everywhere
@pytest.mark.parametrize("held_out", [False, True])
def test_the_scorer_ranks_the_true_caption_above_a_near_miss(world: World, held_out: bool) -> None:
    scorer = Scorer.from_pretrained(SCORERS[world.name]).float().eval().requires_grad_(False)
    rng = random.Random(0)
    captions = [sample_caption(rng, held_out=held_out, world=world) for _ in range(128)]
    misses = [rng.choice(_near_misses(caption)) for caption in captions]
    pixels = np.stack([render(caption, rng) for caption in captions])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    true, false = (scorer(images, scorer.tokenize([c.text for c in side])) for side in (captions, misses))
    assert (true > false).float().mean() >= 0.85


@pytest.mark.parametrize("name", PIPELINES)
def test_the_pipeline_follows_its_prompts(name: str) -> None:
    """Far better under the prompt than under another image's, and neither hopeless nor finished."""
    torch.manual_seed(0)
    rng = random.Random(0)
    captions = [sample_caption(rng, world=WORLD_OF[name]) for _ in range(64)]
    images = sample(StableDiffusionPipeline.from_pretrained(PIPELINES[name], dtype=torch.float32), captions)
    own = np.mean([gold_score(image, caption) for image, caption in zip(images, captions, strict=True)])
    other = np.mean([gold_score(image, captions[i - 1]) for i, image in enumerate(images)])
    assert own > other + 0.15
    assert 0.3 < own < 0.97
