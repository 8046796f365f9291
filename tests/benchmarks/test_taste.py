"""The benchmark of a taste, but for its runs: what it starts, what it goes on with, and what it says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmarks.taste import LIVE, MANY, TASTE, Seed, draw, table
from cluster.config import load_config
from rewards import make_reward
from rewards.people.choices import BOTH_BAD, TIE
from rewards.reward import to_images
from tests.support.taste import liking, of_two


def test_runs_are_of_its_own_prompts_and_watch_the_rule(tmp_path: Path) -> None:
    settings = yaml.safe_load(LIVE.read_text())
    for name, rewards in (("live", {"people": settings["rewards"]["people"]}), ("rule", {"taste": TASTE})):
        *_, written = Seed(tmp_path, 1)._command(name, settings if name == "live" else MANY, rewards)
        config = load_config(Path(written))
        assert (config.people, config.seed) == ("people" if name == "live" else None, 1)
        assert (name == "rule") == bool(config.weights["taste"])
        assert Path(config.prompts.train).parent == tmp_path
    assert config.iterations * config.prompts_per_iteration == 120


def test_a_run_that_has_begun_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "rule").mkdir()
    (tmp_path / "rule" / "config.yaml").touch()
    assert Seed(tmp_path, 0)._command("rule", MANY, {})[-2:] == ["--resume", str(tmp_path / "rule")]


def test_the_table_has_every_arm_and_the_curve_is_drawn(tmp_path: Path) -> None:
    names = ("train/taste", "held_out/taste", "train/shapes_gold", "train/diversity")

    def seed(taste: float) -> dict[str, Any]:
        at = {count: dict.fromkeys(names, taste + count / 100) for count in (0, 60, 120)}
        return {"live": at, "rule_in_pairs": at, "fitted": {100: at[60]}, "rule": at[120]}

    found = [seed(1.0), seed(1.2)]
    lines = table(found)
    assert lines[2] == "| pretrained |  | 1.10 | 1.00, 1.20 | 1.10 | 1.10 | 1.10 |"
    assert lines[4] == "| live | 120 | 2.30 | 2.20, 2.40 | 2.30 | 2.30 | 2.30 |"
    assert len(lines) == 2 + 1 + 2 + 2 + 1 + 1
    draw(found, tmp_path / "taste.png")
    assert (tmp_path / "taste.png").stat().st_size > 1000


def disc(ground: int, colour: tuple[int, int, int], radius: float) -> np.ndarray:
    rows, columns = np.indices((32, 32))
    picture = np.full((32, 32, 3), ground, np.uint8)
    picture[(rows - 15.5) ** 2 + (columns - 15.5) ** 2 < radius**2] = colour
    return picture


def test_the_rule_is_read_off_the_picture_and_is_a_reward() -> None:
    small, large = disc(128, (220, 60, 30), 4), disc(128, (220, 60, 30), 8)
    cold, white = disc(128, (30, 60, 220), 4), disc(245, (220, 60, 30), 4)
    share = (np.indices((32, 32)) - 15.5).astype(float)
    area = float(((share**2).sum(axis=0) < 16).mean())
    assert liking(small) == pytest.approx(3 - 4 * area)
    assert liking(small) > liking(large) > 2
    assert liking(small) - liking(cold) == liking(small) - liking(white) == 1
    images = to_images(np.stack([small, large, cold, white]))
    scores = make_reward(TASTE["kind"]).score(images, [""] * 4)
    assert torch.as_tensor(scores).tolist() == pytest.approx([liking(p) for p in (small, large, cold, white)])
    assert (of_two(1.0, 2.0), of_two(2.0, 1.0), of_two(2.0, 2.05), of_two(0.1, 0.4)) == (1, 0, TIE, BOTH_BAD)
