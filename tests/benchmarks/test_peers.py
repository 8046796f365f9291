"""Peers beside ours: work is counted, rounds are paired, unequal work is refused, and plain loops do what they say."""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actors.policy import Policy
from actors.rollout import rollout
from benchmarks.peers import compared, environment
from benchmarks.peers.__main__ import main
from benchmarks.peers.compared import EQUAL_WORK, work_of
from benchmarks.peers.diffusers_dpo import DiffusersDpo, dpo_loss
from benchmarks.peers.ours import Ours
from benchmarks.peers.ours_dpo import OursDpo
from benchmarks.peers.pictures import pairs
from benchmarks.peers.plain_ddpo import PlainDdpo, standardised
from benchmarks.peers.process import Process
from benchmarks.peers.rounds import check_equal, of_records, ratios, speed
from benchmarks.peers.work import Round, Side, Tally, Unlike, Work, alike, answer, measure
from cluster.errors import ConfigError
from cluster.prompts import make_requests
from learner.objectives.diffusion_dpo import DiffusionDPOConfig
from learner.objectives.diffusion_dpo import dpo_loss as our_dpo_loss
from tests.support.tiny import write_config

ROUND = Round((2.0, 4.0, 3.0), 0.5, 64, 3840, 1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Four images of three steps on the tiny pipeline, judged by the first world's scorer."""
    config = write_config(tmp_path_factory.mktemp("work"))
    (config.parent / "prompts.txt").write_text("a red circle\nfour blue stars\n")
    text = (
        config.read_text()
        .replace("jpeg_compressibility", "shapes_agreement")
        .replace("ema_decay: 0.5", "betas: [0.9, 0.999]")
    )
    config.write_text(text + "objective: {name: ddpo, updates: 1}\n")
    return work_of([str(config)])


class Fake(Side):
    """Gives its network two rows and its reward one picture an update, and steps once, or as often as `steps` say."""

    micro_batches = (4, 8)
    steps: Sequence[int] = (1,)

    def __init__(self, work: Work, micro_batch: int, tally: Tally) -> None:
        self._network = nn.Linear(2, 1)
        self._optimizer = torch.optim.SGD(self._network.parameters())
        tally.watch(self._network)
        self._score = tally.judged(lambda images, prompts: images)
        self._steps = itertools.cycle(self.steps)

    def update(self) -> None:
        self._network(torch.ones(2, 2)).sum().backward()
        self._score(torch.ones(1, 3), ["a"])
        for _ in range(next(self._steps)):
            self._optimizer.step()


class Wavering(Fake):
    """Steps once an update in the mean alone."""

    steps = (0, 2)


def test_a_side_is_timed_and_counted(work: Work) -> None:
    tally = Tally()
    found = measure(Fake(work, 4, tally), tally, 3)
    assert (found.images, found.evaluations, found.optimizer_steps, len(found.seconds)) == (1, 2, 1, 3)
    assert all(seconds > 0 for seconds in found.seconds)
    assert found.judging > 0


def test_updates_that_differ_are_refused(work: Work) -> None:
    tally = Tally()
    side = Fake(work, 4, tally)
    update, done = side.update, iter(range(2))
    side.update = lambda: update() if next(done) else None  # type: ignore[method-assign]
    with pytest.raises(Unlike, match="Updates are not there: none was recorded"):
        alike("Updates", [])
    with pytest.raises(Unlike, match="not alike: one had 0 judged images, 0 network evaluations, 0 optimizer steps"):
        measure(side, tally, 2)
    side = Wavering(work, 4, tally)
    with pytest.raises(Unlike, match=r"2 network evaluations, 0 optimizer .* 2 network evaluations, 2 optimizer"):
        measure(side, tally, 4)


def test_a_process_says_that_its_updates_differ(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([json.dumps(asdict(work)), "prepare 4", "round 2"])))
    with pytest.raises(SystemExit, match="error: Updates of one side were not alike: one had 1 judged images"):
        answer(Wavering)


def test_a_process_answers(work: Work, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[float, Path]] = []
    lines = [json.dumps(asdict(work)), "prepare 8", "round 2", "train 1.5 /a folder"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    answer(Fake, lambda _, seconds, folder: told.append((seconds, folder)))
    said = [json.loads(line.removeprefix("answer ")) for line in capsys.readouterr().out.splitlines()]
    assert said[0] == [4, 8]
    assert (said[2]["images"], said[2]["evaluations"], len(said[2]["seconds"])) == (1, 2, 2)
    assert (said[1], said[3]) == (None, None)
    assert told == [(1.5, Path("/a folder"))]


@pytest.mark.parametrize("lines", [["round 1"], ["prepare 4", "prepare 8"], ["train 1 /folder"]])
def test_a_process_is_of_one_micro_batch(work: Work, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([json.dumps(asdict(work)), *lines])))
    with pytest.raises(SystemExit, match=f"error: This side has no answer to '{lines[-1]}' now"):
        answer(Fake)


@pytest.mark.parametrize(
    ("count", "said"),
    [("images", "64 judged images"), ("evaluations", "3,840 network evaluations"), ("optimizer_steps", "1 optimizer")],
)
def test_a_ratio_of_different_work_is_refused(count: str, said: str) -> None:
    other = replace(ROUND, **{count: getattr(ROUND, count) + 1})
    with pytest.raises(ConfigError, match=f"ours has {said}.* and peer has"):
        check_equal({"ours": ROUND, "peer": other})
    with pytest.raises(ConfigError, match="different work"):
        ratios([{"ours": ROUND, "peer": ROUND}, {"ours": ROUND, "peer": other}], "ours", "peer")


def test_the_work_of_a_run_is_what_its_records_say() -> None:
    def of(iteration: int, updates: float = 1) -> dict[str, float]:
        return {"reward_queries": 64.0 * iteration, "network_evaluations": 3840.0 * iteration, "updates": updates}

    found = of_records([of(1), of(2), of(3)], 2.5)
    assert (found.seconds, found.images, found.evaluations, found.optimizer_steps) == ((2.5,), 64, 3840, 1)
    check_equal({"ours": found, "peer": ROUND})
    for odd in ([of(1), of(2), of(4)], [of(1), of(2), of(3, updates=2)]):
        with pytest.raises(Unlike, match="By its records a run's iterations were not alike: one had 64 judged images"):
            of_records(odd, 2.5)


def test_ratios_are_of_pairs() -> None:
    """A slow round slows both of its sides: 3 / 2, 30 / 15, 8 / 4."""
    seconds = [(2.0, 3.0), (15.0, 30.0), (4.0, 8.0)]
    rounds = [{"ours": replace(ROUND, seconds=(a,)), "peer": replace(ROUND, seconds=(b,))} for a, b in seconds]
    assert ratios(rounds, "ours", "peer") == [1.5, 2.0, 2.0]
    assert ratios(rounds, "peer", "ours")[1:] == [0.5, 0.5]
    assert speed(ROUND, 64) == pytest.approx(64 / 3)


def test_the_equal_work_is_what_it_says() -> None:
    work = work_of([str(EQUAL_WORK)])
    assert (len(work.prompts), len(set(work.prompts)), work.steps, work.guidance) == (64, 8, 15, 2.0)
    assert (work.rank, work.alpha, work.clip_range, work.lr) == (4, 4, 1e-4, 3e-4)
    assert all(len(ids) == 16 for ids in work.tokens)
    assert json.loads(json.dumps(asdict(work)))["prompts"] == list(work.prompts)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([str(EQUAL_WORK), "objective.updates=2"], "one optimizer step an update"),
        ([str(EQUAL_WORK), "objective.step_fraction=0.5"], "over all transitions"),
        ([], "set objective.name=ddpo"),
    ],
)
def test_other_work_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        work_of(words)


def test_the_recipe_has_our_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, reference, noise = (torch.randn(6, 4, 8, 8, generator=generator).double() for _ in range(3))
    config = DiffusionDPOConfig(beta=3.0)

    def error(output: Tensor) -> Tensor:
        return (output - noise).square().flatten(1).mean(1)

    implicit = (error(reference) - error(predicted)) / 2
    ours = our_dpo_loss(implicit[:3] - implicit[3:], torch.ones(3, dtype=torch.float64), config).mean()
    assert float(dpo_loss(predicted, reference, noise, config.beta / 2)) == pytest.approx(float(ours), abs=1e-6)
    assert float(dpo_loss(noise, reference, noise, 0.0)) == pytest.approx(np.log(2))


def test_scores_are_standardised_by_prompt() -> None:
    found = standardised(torch.tensor([1.0, 3.0, 5.0, 5.0]), ["a", "a", "b", "b"])
    assert found.tolist() == pytest.approx([-1, 1, 0, 0], abs=1e-5)


def test_pairs_are_pictures_of_two_prompts() -> None:
    winners, losers = pairs(["a red circle", "a red circle", "four blue stars"], 0, 32)
    again = pairs(["a red circle", "a red circle", "four blue stars"], 0, 32)
    assert winners.shape == losers.shape == (3, 32, 32, 3)
    assert np.array_equal(np.stack([winners, losers]), again)
    assert (winners != losers).any(axis=(1, 2, 3)).all()


def test_the_plain_loop_begins_with_ratios_of_one(work: Work) -> None:
    side = PlainDdpo(work, 4, Tally())
    states, behaviour, images = side.draw()
    step, row = torch.arange(3).repeat_interleave(4), torch.arange(4).repeat(3)
    again = side.log_prob(states[step, row], states[step + 1, row], step, row)
    assert again.detach() == pytest.approx(behaviour[step, row], abs=1e-5)
    assert images.shape == (4, 3, 16, 16)


def test_the_plain_loop_has_our_chain(work: Work) -> None:
    """Its transitions at fresh adapters are those of our policy."""
    side = PlainDdpo(work, 4, Tally())
    ours = Ours(work, 4, Tally()).policy
    x, step, row = torch.randn(4, 4, 8, 8), torch.tensor([0, 1, 2, 2]), torch.arange(4)
    mean, std = side._mean(x, step, row)
    told = ours.encode(work.prompts)
    expected = ours.transitions.mean(x, ours.predict(x, step, told), step)
    assert mean.detach() == pytest.approx(expected.detach(), abs=1e-4)
    assert std.flatten() == pytest.approx(ours.transitions.std_at(step, x).flatten(), rel=1e-4)


@pytest.mark.parametrize(("own", "peer"), [(Ours, PlainDdpo), (OursDpo, DiffusersDpo)])
def test_both_sides_do_the_same_work(work: Work, own: type[Side], peer: type[Side]) -> None:
    found = {}
    for kind in (own, peer):
        tally = Tally()
        side = kind(work, 2, tally)
        for _ in range(kind.warm_up):
            side.update()
        found[kind.__name__] = measure(side, tally, 1)
    check_equal(found)
    assert next(iter(found.values())).evaluations == (2 * 2 * 3 * 4 if own is Ours else 2 * 2 * 4)


def test_the_loop_watches_with_a_guided_prediction_a_sample(policy: Policy) -> None:
    (request,) = make_requests(("a red circle", "four blue stars"), 2, 4, seed=0, stored_steps=(0, 1))
    rows = []
    for asked in (request, replace(request, kl=True)):
        before = policy.evaluations
        rollout(policy, asked)
        rows.append(policy.evaluations - before)
    assert rows == [2 * 5 * 4, 2 * 5 * 4 + 2 * 4]


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def build(_: str, folder: Path) -> None:
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "bin" / "python").touch()
        made.append(folder)

    monkeypatch.setattr(environment, "build", build)
    packages = tmp_path / "peer.txt"
    packages.write_text("a==1\n")
    for _ in range(2):
        assert environment.interpreter(packages, tmp_path / "made") == tmp_path / "made" / "bin" / "python"
    assert len(made) == 1
    packages.write_text("a==2\n")
    environment.interpreter(packages, tmp_path / "made")
    assert len(made) == 2


def test_a_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["objective.updates=3"]) == 1
    assert capsys.readouterr().err.startswith("error: Peers take one optimizer step an update")
    with pytest.raises(SystemExit):
        main(["--folder", "kept"])
    assert "--folder keeps the adapters of --to-gold" in capsys.readouterr().err


class Alone:
    """A process of a side: its updates take seconds and steps as told, one of each when that is over."""

    micro_batches = (4, 8)

    def __init__(self, name: str, seconds: dict[int, list[float]], steps: list[int]) -> None:
        self.name, self._seconds, self._steps = name, seconds, iter(steps)
        self.micro_batch, self.closed = 0, False

    def prepare(self, micro_batch: int) -> None:
        assert not self.micro_batch  # one process is of one
        self.micro_batch, self._taken = micro_batch, iter(self._seconds[micro_batch])

    def round(self, updates: int) -> Round:
        assert not self.closed
        return replace(ROUND, seconds=(next(self._taken, 1.0),), optimizer_steps=next(self._steps, 1))

    def close(self) -> None:
        self.closed = True


Begin = Callable[[dict[int, list[float]], list[int]], list[Alone]]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Lets sides have such processes, with steps of the peer's; returns those that have begun."""

    def use(seconds: dict[int, list[float]], steps: list[int]) -> list[Alone]:
        begun: list[Alone] = []

        def start(name: str, *_: object) -> Alone:
            begun.append(Alone(name, seconds, steps if name == "plain_ddpo" else []))
            return begun[-1]

        monkeypatch.setattr(compared, "start", start)
        monkeypatch.setattr(compared, "_whole", lambda *_: replace(ROUND, seconds=(0.5,)))
        return begun

    return use


def test_a_micro_batch_has_its_process_and_is_chosen_by_its_median(
    processes: Begin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = processes({4: [9.0, 1.0, 1.0, 1.0, 2.0], 8: [2.0, 2.0, 2.0]}, [])  # the first at 4 is slow by chance
    compared.compare([str(EQUAL_WORK)], "ours", ["plain_ddpo"], 3, tmp_path)
    assert sorted((one.name, one.micro_batch) for one in begun) == [
        ("ours", 4), ("ours", 8), ("plain_ddpo", 4), ("plain_ddpo", 8),
    ]  # fmt: skip
    assert all(one.closed for one in begun)
    said = capsys.readouterr().out
    assert "ours: 4 at a time" in said
    assert "plain_ddpo: 4 at a time" in said
    assert "median ratio, ours, whole loop / plain_ddpo: 2.000 (rounds 2.000 to 4.000)" in said


def test_a_round_of_other_work_ends_the_command_at_once(processes: Begin, capsys: pytest.CaptureFixture[str]) -> None:
    processes({4: [], 8: [2.0, 2.0, 2.0]}, [1, 1, 1, 1, 2])  # alike when they are tried, and in the first round
    assert main(["--peer", "plain_ddpo", "--rounds", "9"]) == 1
    said = capsys.readouterr()
    assert "error: ours, whole loop has 1 optimizer steps an update and plain_ddpo has 2;" in said.err
    assert said.out.count("images/s") == 1


@pytest.mark.slow
def test_the_plain_loop_is_compared(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its work is longer than a word of a command line may be."""
    monkeypatch.setattr(compared, "_whole", lambda *_: Round((1.0,), np.nan, 4, 48, 1))  # which tests of the loop run
    monkeypatch.setattr(compared, "work_of", lambda _: replace(work, text=(0.0,) * 50_000))
    compared.compare(work.words, "ours", ["plain_ddpo"], 1, tmp_path)
    said = capsys.readouterr().out
    assert "an update: 48 network evaluations, 4 images judged, 1 step" in said
    assert "median ratio, ours, whole loop / plain_ddpo: " in said
    assert "median ratio, ours / plain_ddpo: " in said


@pytest.mark.slow
def test_a_process_that_ends_is_told_of(work: Work) -> None:
    with pytest.raises(ConfigError, match="process of nobody has ended with status 1"):
        Process("nobody", sys.executable, work)
