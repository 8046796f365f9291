"""Windows: every token of a prompt is read once, in its order, between a begin and an end; none is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from actors.config import PolicyConfig
from actors.families.clip_text import count_windows, read_windows
from actors.policy import Policy
from shapes import PIPELINE

TOKENIZER: Any = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer")
ROOM = TOKENIZER.model_max_length - 2
WORDS = st.sampled_from(["red", "circle", "four", "blue", "stars", "x", "é", "İ", "\U0001d160", ",", "  "])
TEXTS = st.lists(WORDS, max_size=60).map(" ".join)


@given(TEXTS, st.integers(0, 3))
def test_every_token_is_read_once_in_its_order(text: str, spare: int) -> None:
    plain = TOKENIZER(text, add_special_tokens=False, verbose=False).input_ids
    (count,) = count_windows(TOKENIZER, [text])
    assert count == max(1, -(-len(plain) // ROOM))
    ids, mask = read_windows(TOKENIZER, text, count + spare)
    assert ids.shape == mask.shape == (count + spare, TOKENIZER.model_max_length)
    assert set(ids[:, 0].tolist()) == {TOKENIZER.bos_token_id}
    own = [row[seen.bool()][1:-1] for row, seen in zip(ids, mask, strict=True)]
    assert torch.cat(own).tolist() == plain
    assert all(row[seen.bool()][-1] == TOKENIZER.eos_token_id for row, seen in zip(ids, mask, strict=True))
    empty = TOKENIZER("", padding="max_length", max_length=TOKENIZER.model_max_length).input_ids
    assert ids[count:].tolist() == [empty] * spare


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_prompts_are_counted_alike_alone_and_together(texts: list[str]) -> None:
    assert count_windows(TOKENIZER, texts) == [count_windows(TOKENIZER, [text])[0] for text in texts]


def test_what_fits_one_window_is_read_as_ever_and_what_does_not_is_refused() -> None:
    text = "red " * ROOM
    ids, _ = read_windows(TOKENIZER, text, 1)
    length = TOKENIZER.model_max_length
    assert torch.equal(ids, TOKENIZER(text, padding="max_length", max_length=length, return_tensors="pt").input_ids)
    with pytest.raises(ValueError, match=r"fills 2 windows .* policy\.prompt_windows is 1"):
        read_windows(TOKENIZER, text + "circle", 1)


def test_the_end_of_a_long_prompt_tells_and_a_window_does_not_depend_on_the_next(
    policy_config: PolicyConfig, tiny_pipeline: Path, nudge: Callable[..., None]
) -> None:
    one, two = (Policy.load(policy_config.model_copy(update={"prompt_windows": n})) for n in (1, 2))
    begin, short = "red circle " * (ROOM // 2), "red circle"
    text = two.encode([begin + "blue star", begin + "green star", short])["text"]
    length = one.encode([short])["text"].shape[1]
    assert text.shape[1] == 2 * length
    alone = one.encode([begin, "blue star", short, ""])["text"]
    torch.testing.assert_close(text[0], torch.cat([alone[0], alone[1]]))
    torch.testing.assert_close(text[2], torch.cat([alone[2], alone[3]]))
    assert not torch.equal(text[0], text[1])
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        said = two.predict(x[:1].repeat(2, 1, 1, 1), torch.tensor([0, 0]), two.encode([begin + "blue star", begin]))
        assert not torch.equal(said[0], said[1])
    with pytest.raises(ValueError, match="fills 2 windows"):
        one.encode([begin + "blue star"])  # nobody has asked before: still not cut
