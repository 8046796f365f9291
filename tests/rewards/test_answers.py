"""What rewards return, in every form: read as what it says, or refused in one sentence, and never broadcast."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rewards.answers import to_features, to_gradients, to_scores
from rewards.errors import WrongAnswer

NUMBERS = st.floats(-1e4, 1e4, width=16) | st.just(float("nan")) | st.just(float("inf"))
SCORES = st.lists(NUMBERS, min_size=1, max_size=6)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
DTYPES = st.sampled_from(["float16", "float32", "float64", ">f4", "int8", "int64", "uint16", "bool"])
JUNK = st.recursive(
    st.none() | st.text() | st.binary() | st.complex_numbers() | st.dates() | st.builds(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3) | st.tuples(inner),
    max_leaves=5,
)
FORMS = {
    "tensor": torch.tensor,
    "float64 tensor": lambda scores: torch.tensor(scores, dtype=torch.float64),
    "half tensor": lambda scores: torch.tensor(scores, dtype=torch.float16),
    "tensor with a graph": lambda scores: torch.tensor(scores, requires_grad=True),
    "array": np.array,
    "big-endian array": lambda scores: np.array(scores, ">f8"),
    "backward view": lambda scores: np.array(scores[::-1])[::-1],
    "list": list,
    "tuple": tuple,
    "list of numpy scalars": lambda scores: [np.float32(score) for score in scores],
    "list of tensors": lambda scores: [torch.tensor(score) for score in scores],
    "list of tensors and numbers": lambda scores: [torch.tensor(scores[0]), *scores[1:]],
    "list of tensors of one number": lambda scores: [torch.tensor([score]) for score in scores],
    "column": lambda scores: torch.tensor(scores)[:, None],
    "row": lambda scores: np.array(scores)[None],
    "nested list": lambda scores: [[score] for score in scores],
}


@pytest.mark.parametrize("form", FORMS)
@given(scores=SCORES)
def test_one_number_an_image_is_read_in_every_form(form: str, scores: list[float]) -> None:
    found = to_scores(FORMS[form](scores), len(scores), "It")
    assert (found.dtype, found.shape) == (torch.float32, (len(scores),))
    np.testing.assert_array_equal(found.detach().numpy(), np.array(scores, np.float32))


@given(shape=SHAPES, dtype=DTYPES, count=st.integers(1, 4), tensor=st.booleans())
def test_a_shape_is_read_exactly_if_it_has_one_dimension_of_the_images(
    shape: tuple[int, ...], dtype: str, count: int, tensor: bool
) -> None:
    answer: Any = np.zeros(shape, dtype)
    answer = torch.from_numpy(np.zeros(shape, np.float32)) if tensor else answer
    if [n for n in shape if n != 1] == [count] * (count > 1):
        assert to_scores(answer, count, "It").shape == (count,)
    else:
        with pytest.raises(WrongAnswer) as error:
            to_scores(answer, count, "The reward 'own'")
        message = str(error.value)
        assert message.startswith(f"The reward 'own' answered {count} image")
        assert f"of shape {shape};" in message
        assert f"of shape ({count},)" in message


@given(junk=JUNK, count=st.integers(1, 4))
def test_what_is_no_number_is_refused_in_one_sentence(junk: object, count: int) -> None:
    for read in (to_scores, to_features):
        with pytest.raises(WrongAnswer) as error:
            read(junk, count, "It")
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "with None;"),
        (0.5, "with 0.5;"),
        ([1.0, None], "type list and length 2, whose element [1] is no number but None;"),
        ((1, "2"), "type tuple and length 2, whose element [1] is no number but an object of type str;"),
        ([[1.0], [None]], "length 2, whose element [1] is no number but an object of type list;"),
        ([1.0, 2.0, 3.0], "type list and length 3;"),
        ([[1.0], [2.0, 3.0]], "type list"),
        ([torch.zeros(2), torch.zeros(3)], "type list"),
        ("ab", "type str and length 2"),
        ((n for n in (1.0, 2.0)), "type generator"),
        (torch.zeros(2, dtype=torch.complex64), "tensor of complex64 of shape (2,)"),
        (torch.zeros(2).to_sparse(), "tensor of float32"),
        (np.array([1.0, None]), "array of object of shape (2,)"),
        (np.array(["a", "b"]), "array of <U1"),
        (np.array(["2020", "2021"], "datetime64[Y]"), "array of datetime64"),
        (torch.zeros(3), "tensor of float32 of shape (3,)"),
        (torch.zeros(2, 2), "tensor of float32 of shape (2, 2)"),
    ],
)
def test_the_sentence_shows_what_came(answer: object, words: str) -> None:
    with pytest.raises(WrongAnswer) as error:
        to_scores(answer, 2, "It")
    assert words in str(error.value)


@given(shape=SHAPES, count=st.integers(1, 4))
def test_strictly_only_one_shape_is_read(shape: tuple[int, ...], count: int) -> None:
    if shape == (count,):
        assert to_scores(np.zeros(shape), count, "It", strict=True).shape == shape
    else:
        with pytest.raises(WrongAnswer, match="shape"):
            to_scores(np.zeros(shape), count, "It", strict=True)


def test_scores_keep_their_graph() -> None:
    leaf = torch.ones(3, requires_grad=True)
    for answer in (2 * leaf, (2 * leaf)[:, None], list(2 * leaf)):
        (gradient,) = torch.autograd.grad(to_scores(answer, 3, "It").sum(), leaf)
        assert gradient.tolist() == [2, 2, 2]


def test_what_is_masked_is_not_judged() -> None:
    masked = np.ma.masked_array([1, 2, 3], [False, True, False])
    np.testing.assert_array_equal(to_scores(masked, 3, "It"), [1, np.nan, 3])


def test_what_float32_cannot_hold_is_infinite() -> None:
    assert to_scores(np.array([1e300, -1e300]), 2, "It").tolist() == [np.inf, -np.inf]


@given(hnp.array_shapes(min_dims=0, max_dims=5, max_side=3))
def test_gradients_have_the_shape_of_the_images(shape: tuple[int, ...]) -> None:
    images = (2, 3, 2, 2)
    if shape == images:
        assert to_gradients(torch.zeros(shape).half(), images, "It").dtype == torch.float32
    else:
        with pytest.raises(WrongAnswer, match="shape"):
            to_gradients(torch.zeros(shape), images, "It")


@given(SHAPES)
def test_features_are_one_row_an_image(shape: tuple[int, ...]) -> None:
    if len(shape) == 2 and shape[0] == 2 and shape[1]:
        assert to_features(np.zeros(shape), 2, "It").shape == shape
    else:
        with pytest.raises(WrongAnswer, match=r"\(2, D\)"):
            to_features(np.zeros(shape), 2, "It")
