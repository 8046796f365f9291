"""Questions: appended by anybody, seen as they come."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rewards.people import questions as module
from rewards.people.lines import Damaged
from rewards.people.questions import FILE, Question, Questions, close, keep_picture, offer
from tests.support.taste import picture


def test_questions_come_while_somebody_reads(tmp_path: Path, ask: Callable[..., list[Question]]) -> None:
    questions = Questions(tmp_path)
    assert len(questions) == 0
    assert not questions.refresh()
    first = ask(2)
    assert questions.refresh()
    assert list(questions) == first
    more = ask(1, start=2, models=("a", "b"), scores=(0.5, 2.0))
    assert questions.refresh()
    assert list(questions) == first + more
    assert questions[more[0].id].gap == 1.5
    assert not questions.refresh()


def test_nothing_is_asked_twice(tmp_path: Path, ask: Callable[..., list[Question]]) -> None:
    made = ask(3)
    assert offer(tmp_path, made) == 0
    assert offer(tmp_path, [*made, Question("another", made[0].sets)]) == 1
    assert len((tmp_path / FILE).read_text().splitlines()) == 4


def test_closed_questions_stay_and_are_closed_once(tmp_path: Path, ask: Callable[..., list[Question]]) -> None:
    questions = Questions(tmp_path)
    one, other = ask(2)
    close(tmp_path, [one.id])
    close(tmp_path, [one.id])
    assert questions.refresh()
    assert list(questions) == [one, other]
    assert (questions.closed(one.id), questions.closed(other.id)) == (True, False)
    assert len((tmp_path / FILE).read_text().splitlines()) == 3
    assert offer(tmp_path, [one]) == 0
    assert all(questions.picture(name) for names in one.sets for name in names)


def test_a_closed_question_is_open_again_where_that_is_asked_for(
    tmp_path: Path, ask: Callable[..., list[Question]]
) -> None:
    questions = Questions(tmp_path)
    one, other = ask(2)
    for _ in range(2):
        close(tmp_path, [one.id])
        questions.refresh()
        assert (questions.closed(one.id), questions.closed(other.id)) == (True, False)
        assert offer(tmp_path, [one, other], again=True) == 1
        questions.refresh()
        assert not questions.closed(one.id)
    assert list(questions) == list(Questions(tmp_path)) == [one, other]


@pytest.mark.parametrize("broken", [Question("a", (("x.png",),)), Question("a", (("x.png",), ("..",)))])
def test_what_is_no_question_is_not_asked(tmp_path: Path, ask: Callable[..., list[Question]], broken: Question) -> None:
    (good,) = ask(1)
    with pytest.raises(ValueError, match=r"A question needs a prompt and at least two sets .*\.$"):
        offer(tmp_path, [Question("another", good.sets), broken])
    assert list(Questions(tmp_path)) == [good]


def test_the_id_follows_from_what_is_asked_alone() -> None:
    question = Question("a", (("x.png",), ("y.png",)))
    assert question.id == Question("a", question.sets, ("m", "n"), (1.0, 2.0)).id
    assert len({question.id, Question("b", question.sets).id, Question("a", question.sets, words="?").id}) == 3


def test_pictures_keep_their_bytes_or_become_png(tmp_path: Path) -> None:
    data = picture(np.random.default_rng(0), 16)
    name = keep_picture(tmp_path, data)
    assert name.endswith(".png")
    assert (tmp_path / "pictures" / name).read_bytes() == data
    assert keep_picture(tmp_path, data) == name
    Image.open(BytesIO(data)).save(bmp := BytesIO(), "BMP")
    other = keep_picture(tmp_path, bmp.getvalue())
    assert Image.open(tmp_path / "pictures" / other).format == "PNG"
    with pytest.raises(ValueError, match="it is no picture that can be shown"):
        keep_picture(tmp_path, data[: len(data) // 2])
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {name, other}


def test_a_picture_is_on_the_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[Path, list[str]]] = []
    look = lambda folder: synced.append((folder, [path.name for path in folder.iterdir()]))  # noqa: E731
    monkeypatch.setattr(module, "sync", look)
    data = picture(np.random.default_rng(0), 16)
    name = keep_picture(tmp_path, data)
    keep_picture(tmp_path, data)
    assert synced == [(tmp_path / "pictures", [name])]


def test_only_pictures_that_are_asked_about_have_a_file(tmp_path: Path, ask: Callable[..., list[Question]]) -> None:
    ((one,), _) = ask(1)[0].sets
    questions = Questions(tmp_path)
    assert questions.picture(one) == tmp_path / "pictures" / one
    assert questions.picture("../questions.jsonl") is None
    assert questions.picture(keep_picture(tmp_path, picture(np.random.default_rng(9), 16))) is None


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "a", "sets": [["x.png"]]}',
        '{"prompt": "a", "sets": [["x.png"], []]}',
        '{"prompt": "a", "sets": [["x.png"], ["../../etc/passwd"]]}',
        '{"prompt": "a", "sets": [["x.png"], ["y.png"]], "models": ["m"]}',
        '{"sets": [["x.png"], ["y.png"]]}',
    ],
)
def test_what_is_no_question_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / FILE).write_text(line + "\n")
    with pytest.raises(Damaged, match="a line that is no question"):
        Questions(tmp_path)
