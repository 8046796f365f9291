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
        (None, "shapes:hard, shapes:held_out, shapes:second_held_out"),
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


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@given(st.lists(st.sampled_from(["a", "b\u2028c", "d\u2029", "e\x85f", "ü ☕", "g\u00a0h"]), min_size=1, max_size=6))
def test_lines_end_at_line_ends_alone(tmp_path_factory: pytest.TempPathFactory, end: str, texts: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "prompts.txt"
    texts = [text.replace("\x85", "").strip() for text in texts]
    path.write_bytes(end.join(texts).encode())
    assert read_prompts(str(path)) == tuple(texts)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("a cat\nun café\n".encode("latin-1"), ["line 2", "0xe9", "iconv -f WINDOWS-1252"]),
        ("a cat\n".encode("utf-16"), ["UTF-16", "iconv -f UTF-16"]),
        (b"\xfe\xff" + "a cat\n".encode("utf-16-be"), ["UTF-16"]),
        ("a cat\n".encode("utf-32"), ["UTF-32"]),
        ("a cat\na dog\n".encode("utf-16-le"), ["UTF-16LE", "iconv -f UTF-16LE"]),
        ("a cat\na dog\n".encode("utf-16-be"), ["UTF-16BE"]),
        (b'[\n "a cat",\n "a dog"\n]\n', ["JSON array", "JSON lines"]),
        (b'["a cat", "a dog"]', ["JSON array"]),
        (b"a cat\na\x00dog\n", ["line 2", r"'\x00'"]),
        (b"a cat\na \x1b[31mred dog\n", ["line 2", r"'\x1b'"]),
        (b'{"prompt": "a cat"}\n{"prompt": 3}\n', ["line 2", "'prompt'"]),
        (b'{"prompt": "a cat"}\n{"text": "a dog"}\n', ["line 2", "'prompt'"]),
        (b'{"prompt": "a cat"}\nnot json\n', ["line 2", "no JSON"]),
        (b'{"prompt": "  "}\n', ["line 1", "'prompt'"]),
        (b'{"prompt": "a", "deep": ' + b"[" * 100_000 + b"\n", ["line 1"]),
    ],
)
def test_what_is_no_list_of_prompts_is_refused_with_its_line(tmp_path: Path, data: bytes, words: list[str]) -> None:
    (tmp_path / "prompts.txt").write_bytes(data)
    with pytest.raises(ValueError, match=r"^the prompt file [^\n]+$") as caught:
        read_prompts(str(tmp_path / "prompts.txt"))
    assert all(word in str(caught.value) for word in words), caught.value


def test_json_lines_are_read_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text('{"prompt": "a sign", "text": "open", "n": 2}\n\n{"prompt": "two\\nlines"}\n')
    prompts = read_prompts(str(path))
    assert prompts == ("a sign", "two\nlines")
    assert [dict(prompt.metadata) for prompt in prompts] == [{"text": "open", "n": 2}, {}]


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("p.jsonl", '"a cat"\n{"prompt": "a dog"}\n', ("a cat", "a dog")),
        ("p.txt", '"a cat"\n"a dog"\n', ("a cat", "a dog")),
        ("p.txt", '"a cat" by night\na dog\n', ('"a cat" by night', "a dog")),
        ("p.txt", "{red|blue} cat\n", ("{red|blue} cat",)),
        ("p.txt", "[V] dog\n", ("[V] dog",)),
    ],
)
def test_what_looks_like_json_is_read_as_json_and_the_rest_literally(
    tmp_path: Path, name: str, text: str, prompts: tuple[str, ...]
) -> None:
    (tmp_path / name).write_text(text)
    assert read_prompts(str(tmp_path / name)) == prompts


@given(st.binary(max_size=80) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_file_is_prompts_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(data)
    try:
        prompts = read_prompts(str(path))
    except ValueError as error:
        said = str(error)
        assert said.startswith("the prompt file")
    else:
        assert prompts
        assert all(prompt.strip() == prompt != "" for prompt in prompts)
