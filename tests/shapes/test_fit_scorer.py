"""What the scorer is trained on: near misses that change one fact, damage that spoils one object, the loss."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shapes.captions import KINDS, Caption, all_captions, parse, sample_caption
from shapes.fit_scorer import bradley_terry, corrupt, damage, fit_scorer
from shapes.judge import gold_score
from shapes.render import arrange, draw
from shapes.scorer import tokenize
from shapes.worlds import FIRST, WORLDS, World

captions = st.sampled_from([c for world in WORLDS.values() for kind in KINDS for c in all_captions(kind, world=world)])
everywhere = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def changed_facts(a: Caption, b: Caption) -> set[str]:
    """Which facts tell two captions apart; a different number of things is one fact."""
    facts = {name for name in ("place", "background") if getattr(a, name) != getattr(b, name)}
    if len(a.things) != len(b.things):
        facts |= {"number"} if set(a.things) == set(b.things) else {"number", "thing"}
    elif Counter(a.things) != Counter(b.things):
        same = [Counter(getattr(t, part) for t in a.things) == Counter(getattr(t, part) for t in b.things)
                for part in ("colour", "shape")]  # fmt: skip
        facts.add({(True, True): "swap", (False, True): "colour", (True, False): "shape"}.get(tuple(same), "both"))
    return facts


@given(captions, st.integers(0, 2**32))
@settings(deadline=None, max_examples=200)
def test_a_corrupted_caption_is_a_caption(caption: Caption, seed: int) -> None:
    wrong = corrupt(caption, random.Random(seed))
    assert parse(wrong.text, caption.world) == wrong


@everywhere
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("colour", {"colour", "shape", "number", "background"}),
        ("count", {"colour", "shape", "number", "background"}),
        ("composition", {"colour", "shape", "swap", "background"}),
        ("location", {"colour", "shape", "place", "background"}),
    ],
)
def test_four_in_five_corruptions_change_one_fact_and_each_fact_gets_its_turn(
    kind: str, expected: set[str], world: World
) -> None:
    rng, choices = random.Random(0), all_captions(kind, world=world)
    changes: Counter[str] = Counter()
    for _ in range(1000):
        caption = rng.choice(choices)
        facts = changed_facts(caption, corrupt(caption, rng))
        changes["+".join(sorted(facts)) if len(facts) < 2 else "many"] += 1
    assert {change for change in changes if changes[change] > 60} - {"many"} == expected
    assert sum(changes[change] for change in expected) >= 780
    assert changes[""] <= 10


@everywhere
def test_damage_costs_facts_and_more_damage_costs_more(world: World) -> None:
    rng = random.Random(0)
    scores, differ = [], []
    for _ in range(500):
        caption = sample_caption(rng, held_out=None, world=world)
        scene = arrange(caption, rng)
        pictures = (draw(scene), *damage(scene, caption.place, rng))
        scores.append([gold_score(picture, caption) for picture in pictures])
        differ.append((pictures[1] != pictures[2]).any())
    clean, little, more = np.array(scores).T
    assert (clean == 1).mean() > 0.98
    assert np.mean(differ) > 0.98  # two degrees may lie so close together that no pixel tells them apart
    assert little.mean() < clean.mean() - 0.1
    assert more.mean() < little.mean() - 0.05
    assert (more > little).mean() < 0.1


@given(captions, st.integers(0, 2**32))
@settings(deadline=None, max_examples=200)
def test_damage_shows(caption: Caption, seed: int) -> None:
    rng = random.Random(seed)
    scene = arrange(caption, rng)
    little, more = damage(scene, caption.place, rng)
    assert little.shape == more.shape == (caption.world.size, caption.world.size, 3)
    assert (little != draw(scene)).any()
    assert (more != draw(scene)).any()


def test_an_object_leaves_its_place_only_where_one_is_asked_for() -> None:
    """A damaged picture of a lone object without a place still has it where it was, or lacks it."""
    rng, caption = random.Random(0), parse("a red square on a black background")
    for _ in range(200):
        scene = arrange(caption, rng)
        (one,) = scene.objects
        _, more = damage(scene, None, rng)
        redness = more[..., 0].astype(int) - more[..., 1:].max(axis=-1)
        rows, columns = np.nonzero(redness > 100)
        if len(rows) > 30:
            assert np.hypot(columns - one.x, rows - one.y).min() < one.radius


def test_a_comparison_that_is_even_costs_log_two() -> None:
    score = torch.randn(5)
    torch.testing.assert_close(bradley_terry(score, (score, score)), torch.tensor(2.0).log())


def test_the_loss_is_the_log_likelihood_of_a_win_for_close_scores() -> None:
    score, miss = torch.tensor([0.03]), torch.tensor([-0.02])
    win = score.exp() / (score.exp() + miss.exp())
    torch.testing.assert_close(bradley_terry(score, (miss,)), -win.log().squeeze(), rtol=0, atol=1e-4)


def test_the_loss_asks_for_a_lead_and_not_for_an_endless_one() -> None:
    def slope(gap: float) -> float:
        score = torch.tensor([gap], requires_grad=True)
        bradley_terry(score, (torch.zeros(1),)).backward()
        return float(score.grad)

    assert slope(-3.0) < slope(0.0) < slope(2.0) < 0 < slope(10.0)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8,), down_block_types=["DownEncoderBlock2D"], up_block_types=["UpDecoderBlock2D"],
        layers_per_block=1, norm_num_groups=4, sample_size=FIRST.size,
    ).eval()  # fmt: skip


def _fit(vae: AutoencoderKL, seed: int, world: World) -> Tensor:
    torch.manual_seed(seed)
    scorer = fit_scorer(vae, steps=2, batch=2, pictures=4, rng=random.Random(seed), world=world)
    assert (scorer.training, scorer.world) == (False, world)
    prompts = [caption.text for caption in all_captions("count", world=world)[::100]]
    with torch.no_grad():
        return scorer(torch.full((len(prompts), 3, world.size, world.size), 0.5), scorer.tokenize(prompts))


@everywhere
def test_fitting_is_reproducible(vae: AutoencoderKL, world: World) -> None:
    scores = _fit(vae, 0, world)
    assert scores.isfinite().all()
    torch.testing.assert_close(_fit(vae, 0, world), scores)
    assert not torch.allclose(_fit(vae, 1, world), scores)


@pytest.mark.slow
def test_fitting_learns_which_of_two_captions_is_true(vae: AutoencoderKL) -> None:
    torch.manual_seed(0)
    scorer = fit_scorer(vae, steps=120, batch=16, pictures=32, rng=random.Random(0))
    rng = random.Random(0)  # the captions and near misses that it was shown, in pictures that it was not
    captions = [sample_caption(rng, held_out=None) for _ in range(32)]
    misses = [corrupt(caption, rng) for caption in captions]
    shown = np.stack([draw(arrange(caption, rng)) for caption in captions])
    images = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        true, false = (scorer(images, tokenize([c.text for c in which])) for which in (captions, misses))
    assert (true > false).float().mean() > 0.8
