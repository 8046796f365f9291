"""The command: what it refuses, asks and writes. The page itself is in test_label_browser."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster import label
from rewards.people import choices, export
from rewards.people.choices import Choice, Choices
from rewards.people.lines import NotKept
from rewards.people.pick_a_pic import Pair, decode, read_index, write
from rewards.people.questions import Question, Questions, offer
from tests.support.taste import picture

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two prompts with three pictures each."""
    rng = np.random.default_rng(0)
    for prompt in ("a disc", "another disc"):
        (tmp_path / "pictures" / prompt).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "pictures" / prompt / f"{number}.png").write_bytes(picture(rng, 16))
    return tmp_path / "pictures"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command with a page that nobody opens; status, and what it said."""

    async def serve(page: object, *address: object) -> None:
        port = address[1]
        address[-1](port)  # type: ignore[operator]

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(label, "serve", serve)
        try:
            status = label.main([str(word) for word in words])
        except SystemExit as stop:
            status = int(stop.code or 0)
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def answer(folder: Path, verdicts: list[int | str], round: int = 0) -> list[Choice]:
    """Choices of the questions of a folder, the right one first."""

    async def add() -> None:
        kept = Choices(folder)
        for number, (question, verdict) in enumerate(zip(Questions(folder), verdicts, strict=True)):
            name = f"choice{round}{number:04d}"
            given = (name, question.id, question.prompt, question.sets, (1, 0), verdict, "Ada", round, 1.0)
            await kept.add(Choice(*given))
        kept.close()

    asyncio.run(add())
    return choices.read(folder)


def test_pairs_of_a_folder_are_asked_about_once(folder: Path, run: Run) -> None:
    status, said = run(folder, "--pairs", 4)
    assert (status, said.splitlines()[1:3]) == (
        0,
        [
            "open http://127.0.0.1:8080/ (Ctrl-C ends it)",
            "results so far are under /results there, and name the models: show them to nobody who rates",
        ],
    )
    asked = list(Questions(folder / "people"))
    assert len(asked) == 4
    run(folder, "--pairs", 4)
    assert list(Questions(folder / "people")) == asked
    run(folder)
    assert list(Questions(folder / "people"))[:4] == asked
    assert len(Questions(folder / "people")) == 6


def test_the_least_sure_pairs_are_those_of_a_reward(folder: Path, run: Run, tmp_path: Path) -> None:
    assert run(folder, "--pick", "unsure") == (
        1,
        "error: No picture has a score to be unsure by; name a reward with --reward, or --pick random.\n",
    )
    status, _ = run(folder, "--pick", "unsure", "--reward", "brightness", "--pairs", 3)
    assert status == 0
    gaps = [question.gap for question in Questions(folder / "people")]
    assert gaps == sorted(gaps)
    means = {
        path.name: float(np.asarray(Image.open(path).convert("RGB")).mean()) / 255
        for path in (folder / "people" / "pictures").iterdir()
    }
    for question in Questions(folder / "people"):
        one, other = (means[name] for (name,) in question.sets)
        assert question.gap == pytest.approx(abs(one - other), abs=1e-5)


def test_a_study_asks_each_question_about_every_prompt(folder: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "others").symlink_to(folder)
    words = (folder, tmp_path / "others", "--ask", "Best?", "--ask", "Most?", "--set-size", 2)
    assert run(*words)[0] == 0
    asked = list(Questions(folder / "people"))
    assert {(question.prompt, question.words) for question in asked} == {
        (prompt, said) for prompt in ("a disc", "another disc") for said in ("Best?", "Most?")
    }
    assert {question.models for question in asked} == {("pictures", "others")}
    assert "name two at least" in run(folder, "--ask", "Best?")[1]
    assert f"error: {folder} is named twice" in run(folder, folder, "--ask", "Best?")[1]
    assert "take a smaller --set-size" in run(*words[:-1], 4)[1]


def test_a_dataset_has_its_own_pairs(tmp_path: Path, run: Run) -> None:
    rng = np.random.default_rng(0)
    made = [Pair(f"disc {number}", (picture(rng, 16), picture(rng, 16)), 1.0) for number in range(9)]
    made[3] = Pair("torn", (b"no picture", made[3].pictures[1]), 1.0)
    made[4] = Pair("", made[4].pictures, 1.0)
    path = tmp_path / "data" / "train.parquet"
    write(path, made, rows=3)
    status, said = run(path)
    assert status == 0
    assert "warning: 1 pair could not be shown" in said
    asked = list(Questions(tmp_path / "data" / "train-people"))
    assert {question.prompt for question in asked} == {f"disc {number}" for number in range(9)} - {"disc 3", "disc 4"}
    run(path.parent, "--pairs", 2)
    assert len(Questions(tmp_path / "data" / "people")) == 2
    assert "a dataset has pairs of its own" in run(path, "--ask", "Best?")[1].lower()


def test_choices_become_a_dataset_that_is_read_back(folder: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "Nobody has chosen anything" in run(folder, "--export", out)[1]
    run(folder)
    made = answer(folder / "people", [0, 1, "tie", "both_bad", 0, 1])
    assert run(folder, "--export", out) == (0, f"6 choices: {out}\n")
    table = pq.read_table(out).to_pylist()
    # The second picture stood on the left.
    assert [row["label_0"] for row in table] == [0.0, 1.0, 0.5, None, 0.0, 1.0]
    assert [row["label_1"] for row in table] == [1.0, 0.0, 0.5, None, 1.0, 0.0]
    assert [row["has_label"] for row in table] == [True, True, True, False, True, True]
    assert [row["both_bad"] for row in table] == [False, False, False, True, False, False]
    for row, choice in zip(table, made, strict=True):
        assert row["caption"] == choice.prompt
        for side, (name,) in enumerate(choice.sets):
            kept = np.asarray(Image.open(folder / "people" / "pictures" / name).convert("RGB"))
            assert (decode(row[f"jpg_{side}"]) == kept).all()
    assert read_index(out).rows == 6


def test_what_came_again_is_no_second_row_and_a_picture_that_is_gone_costs_its_own(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    run(folder)
    answer(folder / "people", [0, 1, "tie", "both_bad", 0, 1])
    made = answer(folder / "people", [1, 1, 1, 1, 1, 1], round=1)
    assert len(made) == 12
    assert run(folder, "--export", tmp_path / "out") == (0, f"6 choices: {tmp_path}/out\n")
    assert pq.read_table(tmp_path / "out")["label_0"].to_pylist() == [0.0, 1.0, 0.5, None, 0.0, 1.0]
    (folder / "people" / "pictures" / made[0].sets[0][0]).unlink()  # of two pairs
    status, said = run(folder, "--export", tmp_path / "rest")
    warning = "warning: 2 choices left out, because a picture cannot be read"
    assert (status, said) == (0, f"4 choices: {tmp_path}/rest\n{warning}\n")


def test_an_export_replaces_no_dataset(tmp_path: Path, run: Run) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    write(path, [Pair("a disc", (picture(rng, 16), picture(rng, 16)), 1.0)] * 9)
    before = path.read_bytes()
    run(path.parent)
    answer(path.parent / "people", [0])
    for out in (path.parent, tmp_path):
        status, said = run(path.parent, "--export", out)
        assert (status, said.startswith(f"error: {out} holds a dataset already (")) == (1, True)
    assert run(path.parent, "--export", path) == (1, f"error: {path} is a file; name a folder for the dataset.\n")
    assert path.read_bytes() == before
    assert [*tmp_path.rglob("*.parquet")] == [path]
    assert run(path.parent, "--export", tmp_path / "new")[0] == 0


def test_answers_to_words_of_a_study_are_no_pairs(folder: Path, run: Run, tmp_path: Path) -> None:
    run(folder, "--pairs", 3)
    first, *_ = asked = list(Questions(folder / "people"))
    offer(folder / "people", [replace(first, words="Which is the darker one?")])
    answer(folder / "people", [0, 0, 0, 0])
    assert run(folder, "--export", tmp_path / "out") == (0, f"{len(asked)} choices: {tmp_path}/out\n")
    alone = tmp_path / "alone"
    alone.mkdir()
    offer(alone, [Question("a disc", (("a.png",), ("b.png",)), words="Which is the darker one?")])
    answer(alone, [0])
    with pytest.raises(NotKept, match=r"^No choice says which of two pictures is better; those of a study"):
        export.export(alone, choices.read(alone), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_export_without_its_pictures_is_refused(folder: Path, run: Run, tmp_path: Path) -> None:
    run(folder, "--pairs", 1)
    (choice,) = answer(folder / "people", [0])
    (folder / "people" / "pictures" / choice.sets[0][0]).unlink()
    status, said = run(folder, "--export", tmp_path / "out")
    assert status == 1
    assert "of a choice cannot be read (No such file or directory)." in said
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--listen", "0.0.0.0:0"), "0.0.0.0 can be reached from other machines, so the page needs a token"),
        (("--listen", "0.0.0.0:0", "--token-file", "TOKEN"), "without TLS token and choices travel in the open"),
        (("--listen", "8080"), "is not an address; write host:port"),
        (("--certificate", "TOKEN"), "TLS needs --certificate and --key together."),
        (("--certificate", "TOKEN", "--key", "TOKEN"), "cannot be used for TLS"),
        (("--again", "2"), "'2' is not a number from 0 to 1"),
        (("--pairs", "0"), "is not a whole number"),
        (("--reward", "brightness"), "--reward is asked by --pick unsure alone"),
        (("--pick", "unsure", "--reward", "dino"), "The reward 'dino' has image features and no score"),
        (("--records", "TOKEN"), "token is a file."),
        (("--records", "TOKEN/deeper"), "cannot be written to (Not a directory)"),
        (("--records", "TOKEN/deeper", "--export", "TOKEN"), "Nobody has chosen anything"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    folder: Path, run: Run, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    (tmp_path / "token").write_text("a-token\n")
    status, said = run(folder, *(word.replace("TOKEN", str(tmp_path / "token")) for word in words))
    assert status == 1
    assert said.startswith("error: ")
    assert sentence in said
    assert not (folder / "people").exists()


def test_with_a_token_the_network_may_be_trusted_outright(folder: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token\n")
    status, said = run(folder, "--listen", "0.0.0.0:80", "--token-file", tmp_path / "token", "--insecure")
    assert status == 0
    assert "open http://0.0.0.0:80/?token=a-token" in said


def test_any_token_makes_a_link_that_lets_in(folder: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a+b&c#d%20\n")
    said = run(folder, "--token-file", tmp_path / "token")[1]
    (link,) = (word for word in said.split() if word.startswith("http"))
    assert parse_qs(urlsplit(link).query) == {"token": ["a+b&c#d%20"]}


def test_one_odd_picture_is_counted_and_no_more(folder: Path, run: Run) -> None:
    (folder / "a disc" / "gone.png").symlink_to("nowhere")
    (folder / "another disc" / "folder.png").mkdir()
    status, said = run(folder)
    assert (status, len(Questions(folder / "people"))) == (0, 6)
    assert "warning: 6 pairs could not be shown, because a picture is damaged" in said
    status, said = run(folder, "--pick", "unsure", "--reward", "brightness")
    assert status == 0


def test_one_page_a_folder(folder: Path, run: Run) -> None:
    run(folder)
    held = Choices(folder / "people")
    status, said = run(folder)
    held.close()
    assert status == 1
    assert said.startswith("error: Another process writes to ")


def test_results_are_printed_at_the_end(folder: Path, run: Run) -> None:
    run(folder)
    answer(folder / "people", [0, 1, "tie", "both_bad", 0, 1])
    assert "Ada: 6 choices, 1 ties, 1 both bad, left 50% of the rest" in run(folder)[1]


def test_a_run_that_waits_for_people_shows_its_own_pairs_as_they_come(tmp_path: Path, run: Run) -> None:
    (tmp_path / "run").mkdir()
    rewards = "{us: {kind: people, weight: 1.0}, shapes_gold: {kind: null, weight: 0.0}}"
    (tmp_path / "run" / "config.yaml").write_text(f"rewards: {rewards}\n")
    status, said = run(tmp_path / "run")
    assert (status, said.splitlines()[0]) == (
        0,
        f"0 questions, and more as the run draws pictures; choices are kept in {tmp_path}/run/people",
    )
    assert len(Questions(tmp_path / "run" / "people")) == 0
    assert "keeps no pictures yet" in run(tmp_path / "run@0")[1]
    (tmp_path / "run" / "config.yaml").write_text("rewards: {shapes_gold: {kind: null, weight: 1.0}}\n")
    assert "keeps no pictures yet" in run(tmp_path / "run")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pick", "unsure", "--reward", "brightness"), "--pick unsure"),
        (("--pairs", 200), "--pairs"),
        (("--set-size", 2, "--records", "elsewhere"), "--set-size and --records"),
    ],
)
def test_what_has_no_say_in_the_pairs_of_a_run_that_waits_is_refused(
    tmp_path: Path, run: Run, words: tuple[object, ...], said: str
) -> None:
    (tmp_path / "config.yaml").write_text("rewards: {people: {kind: null, weight: 1.0}}\n")
    assert run(tmp_path, *words) == (
        1,
        f"error: {tmp_path} is a run that waits for people and asks about its own pairs, all of them: leave out "
        f"{said}, or name an evaluation of it ({tmp_path}@0, with --records of its own).\n",
    )
    assert run(tmp_path, "--records", tmp_path / "people", "--seed", 3, "--again", 0)[0] == 0


def test_pictures_without_a_pair_are_said(folder: Path, run: Run) -> None:
    for prompt in folder.iterdir():
        for path in list(prompt.iterdir())[1:]:
            path.unlink()
    assert run(folder)[1].startswith("error: There is nothing to choose between")
