"""Prompts: every pass asks each once, whichever iteration is computed first; requests cut prompts x samples."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.prompts import make_requests, prompts_of, read_prompts

SEEDS = st.integers(0, 2**63 - 1)


def prompt_list(size: int) -> tuple[str, ...]:
    return tuple(f"prompt {i}" for i in range(size))


@given(st.data(), st.integers(1, 30), SEEDS)
def test_every_pass_asks_each_prompt_exactly_once(data: st.DataObject, size: int, seed: int) -> None:
    prompts = prompt_list(size)
    count = data.draw(st.integers(1, 2 * size))
    asked = [p for i in range(3 * size // count + 1) for p in prompts_of(prompts, i, count, seed)]
    for start in range(0, len(asked) - size + 1, size):
        assert sorted(asked[start : start + size]) == sorted(prompts)


@given(st.data(), st.integers(2, 30), SEEDS)
def test_an_iteration_does_not_depend_on_those_before_it(data: st.DataObject, size: int, seed: int) -> None:
    prompts = prompt_list(size)
    count = data.draw(st.integers(1, 2 * size))
    in_order = {i: prompts_of(prompts, i, count, seed) for i in range(8)}
    shuffled = data.draw(st.permutations(range(8)))
    assert {i: prompts_of(prompts, i, count, seed) for i in shuffled} == in_order


def test_passes_and_seeds_shuffle_differently() -> None:
    prompts = prompt_list(40)
    passes = [
        tuple(p for i in range(4) for p in prompts_of(prompts, 4 * epoch + i, 10, seed))
        for seed in (0, 1)
        for epoch in range(3)
    ]
    assert len(set(passes)) == 6


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 70))
def test_requests_cover_prompts_times_samples_once_and_in_order(count: int, samples: int, size: int) -> None:
    prompts = prompt_list(count)
    requests = make_requests(prompts, samples, size, seed=3, iteration=5, stored_steps=(0, 2), share_init_noise=True)
    rows = [row for r in requests for row in zip(r.prompts, r.prompt_index, r.sample_index, strict=True)]
    assert rows == [(prompts[p], p, s) for p, s in itertools.product(range(count), range(samples))]
    assert all(len(r.prompts) == size for r in requests[:-1])
    assert {(r.seed, r.iteration, r.stored_steps, r.share_init_noise) for r in requests} == {(3, 5, (0, 2), True)}


def test_blank_lines_and_surrounding_space_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\r\n a red circle \r\n\r\n   \nun café ☕\n".encode())
    assert read_prompts(str(path)) == ("a red circle", "un café ☕")


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa red circle\n".encode())
    assert read_prompts(str(path)) == ("a red circle",)


def test_embedded_lists_are_read_by_name() -> None:
    assert read_prompts("shapes:hard")
    assert read_prompts("shapes:held_out")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"fine\n\xff\n", "not UTF-8 (byte 5)"), (b"\n  \n", "holds no prompt"), (None, "shapes:hard, shapes:held_out")],
)
def test_an_unusable_prompt_file_is_refused_by_name(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="prompts") as caught:
        read_prompts(str(path))
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
