"""Prompts: every pass asks each once, whichever iteration is computed first; requests cut prompts x samples."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from unicodedata import category

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cluster.prompts
from actors.trajectories import EVALUATION
from cluster.prompts import _ODD, EVALUATED, make_request, make_requests, prompt_of, prompts_of, read_prompts, spread

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


@given(st.data(), st.integers(1, 30), st.integers(0, 9), SEEDS)
def test_the_order_is_that_of_the_plain_formula(data: st.DataObject, size: int, iteration: int, seed: int) -> None:
    prompts = prompt_list(size)
    count = data.draw(st.integers(1, 2 * size).filter(lambda count: count != size))
    expected = []
    for position in range(iteration * count, (iteration + 1) * count):
        epoch, offset = divmod(position, size)
        expected.append(prompts[np.random.default_rng([seed, epoch]).permutation(size)[offset]])
    assert prompts_of(prompts, iteration, count, seed) == tuple(expected)
    assert prompts_of(prompts, iteration, size, seed) == prompts  # one of each: there is nothing to choose


def test_a_pass_is_shuffled_once_however_many_requests_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, made = prompt_list(1000), []
    real = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda key: made.append(key) or real(key))
    for iteration in range(100):
        for group in (0, 5, 9):
            prompt_of(prompts, iteration, group, 10, seed=12345)
    assert made == [[12345, 0]]


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 70))
def test_one_request_is_that_of_the_whole_list_and_asks_for_its_own_prompts_alone(
    count: int, samples: int, size: int
) -> None:
    prompts = prompt_list(count)
    for number, request in enumerate(make_requests(prompts, samples, size, seed=3, iteration=5, stored_steps=(1,))):
        asked: list[int] = []
        rows = range(count * samples)[number * size : (number + 1) * size]
        made = make_request(lambda group, to=asked: to.append(group) or prompts[group], rows, samples, 3, 5, (1,))
        assert made == request
        assert sorted(asked) == sorted(set(request.prompt_index))


@given(st.integers(1, 200), st.none() | st.integers(1, 200))
def test_a_part_of_a_list_keeps_its_order_and_repeats_nothing(size: int, count: int | None) -> None:
    prompts = prompt_list(size)
    part = spread(prompts, count)
    assert len(part) == min(size, count or size)
    numbers = [prompts.index(prompt) for prompt in part]
    assert numbers == sorted(set(numbers))
    assert spread(prompts, count) == part


def test_a_part_of_a_list_takes_of_everything_that_comes_again_and_again() -> None:
    prompts = tuple(f"{i} {('red', 'green', 'blue', 'black', 'white')[i % 5]}" for i in range(4000))
    colours = Counter(prompt.split()[1] for prompt in spread(prompts, EVALUATED))
    assert min(colours[colour] for colour in ("red", "green", "blue", "black", "white")) >= 6


@pytest.mark.parametrize("lines", [EVALUATED, 4000])
def test_an_evaluation_does_not_grow_with_the_list(lines: int) -> None:
    requests = make_requests(prompt_list(lines), 2, 16, seed=0)
    assert sum(len(r.prompts) for r in requests) == 2 * EVALUATED
    assert {r.iteration for r in requests} == {EVALUATION}
    assert sum(len(r.prompts) for r in make_requests(prompt_list(lines), 2, 16, seed=0, most=None)) == 2 * lines


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
    [
        (b"fine\n\xff\n", "line 2 is not UTF-8 (byte 0xff)"),
        (b"\n  \n", "holds no prompt"),
        (None, "shapes:hard, shapes:held_out"),
    ],
)
def test_an_unusable_prompt_file_is_refused_by_name(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="prompts") as caught:
        read_prompts(str(path))
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_list_is_read_once_and_again_when_it_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, parsed = tmp_path / "prompts.txt", []
    monkeypatch.setattr(cluster.prompts, "decode", lambda data: parsed.append(data) or data.decode())
    for text in (f"first {tmp_path}", f"other {tmp_path}"):
        path.write_text(text)
        assert [read_prompts(str(path)) for _ in range(3)] == [(text,)] * 3
    assert len(parsed) == 2


def test_every_control_character_but_tabs_and_line_ends_is_refused() -> None:
    odd = {chr(code) for code in range(0x110000) if category(chr(code)) in ("Cc", "Cs")} - set("\t\n")
    assert {char for char in map(chr, range(0x110000)) if _ODD.search(char)} == odd
