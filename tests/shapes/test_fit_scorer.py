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
from shapes.render import SIZE, arrange, draw
from shapes.scorer import tokenize

captions = st.sampled_from([caption for kind in KINDS for caption in all_captions(kind)])


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
    assert parse(wrong.text) == wrong


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("colour", {"colour", "shape", "number", "background"}),
        ("count", {"colour", "shape", "number", "background"}),
        ("composition", {"colour", "shape", "swap", "background"}),
        ("location", {"colour", "shape", "place", "background"}),
    ],
)
def test_four_in_five_corruptions_change_one_fact_and_each_fact_gets_its_turn(kind: str, expected: set[str]) -> None:
    rng, choices = random.Random(0), all_captions(kind)
    changes: Counter[str] = Counter()
    for _ in range(1000):
        caption = rng.choice(choices)
        facts = changed_facts(caption, corrupt(caption, rng))
        changes["+".join(sorted(facts)) if len(facts) < 2 else "many"] += 1
    assert {change for change in changes if changes[change] > 30} - {"many"} == expected
    assert sum(changes[change] for change in expected) >= 780
    assert changes[""] <= 10


def test_damage_spoils_one_object_and_nothing_else() -> None:
    rng = random.Random(0)
    rows, columns = np.indices((SIZE, SIZE)) + 0.5
    for _ in range(300):
        scene = arrange(sample_caption(rng, held_out=None), rng)
        clean, spoilt = draw(scene), damage(scene, rng)
        different = (clean != spoilt).any(axis=-1)
        # An outline reaches at most 1.1 radii from its centre, and its soft edge a pixel further.
        around = [np.hypot(columns - o.x, rows - o.y) <= 1.1 * o.radius + 1.5 for o in scene.objects]
        assert different.any()
        assert any(not (different & ~one).any() for one in around)


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
        layers_per_block=1, norm_num_groups=4, sample_size=SIZE,
    ).eval()  # fmt: skip


def _fit(vae: AutoencoderKL, seed: int) -> Tensor:
    torch.manual_seed(seed)
    scorer = fit_scorer(vae, steps=2, batch=2, pictures=4, rng=random.Random(seed))
    assert not scorer.training
    with torch.no_grad():
        return scorer(torch.full((2, 3, SIZE, SIZE), 0.5), tokenize(["a red circle", "four blue stars"]))


def test_fitting_is_reproducible(vae: AutoencoderKL) -> None:
    scores = _fit(vae, 0)
    assert scores.isfinite().all()
    torch.testing.assert_close(_fit(vae, 0), scores)
    assert not torch.allclose(_fit(vae, 1), scores)


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
