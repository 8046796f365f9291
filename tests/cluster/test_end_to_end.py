"""The whole loop with real Ray actors on a tiny pipeline: same weights however many samplers, whoever is killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pandas
import psutil
import pytest
import ray
from rich.console import Console
from safetensors.numpy import load_file

import cluster.loop
from cluster.config import Config, load_config
from cluster.crew.crew import Crew, dismiss, make_crew
from cluster.crew.placement import Placement
from cluster.errors import RunStopped
from cluster.loop import train
from cluster.prompts import make_requests
from cluster.records.display import Display
from cluster.records.rundir import RunDirectory
from cluster.records.timeline import DRIVER
from cluster.sources.rollouts import Rollouts
from learner import checkpoint
from tests.support.documented import undocumented

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

PLACEMENT = Placement({"num_cpus": 0}, {"num_cpus": 0}, {"num_cpus": 0})


@pytest.fixture(scope="module")
def settings(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file: 2 prompts x 4 samples an iteration in 4 requests, 4 iterations, a checkpoint every second one."""
    folder = tmp_path_factory.mktemp("settings")
    (folder / "prompts.txt").write_text("a red circle\nfour blue stars\n")
    (folder / "config.yaml").write_text(f"""
iterations: 4
policy: {{model: {tiny_pipeline}, device: cpu, steps: 4, lora_rank: 2, lora_alpha: 2}}
prompts: {{train: {folder}/prompts.txt, held_out: {folder}/prompts.txt, samples: 4, per_iteration: null}}
rewards: {{jpeg_compressibility: {{weight: 1.0}}, shapes_gold: {{weight: 0.0}}}}
samplers: {{request_size: 2}}
learner: {{lr: 0.01, ema_decay: 0.5}}
evaluation: {{every: 2, samples: 2, held_out_samples: 2, features: null}}
checkpoints: {{every: 2}}
""")
    return folder / "config.yaml"


def make_run(settings: Path, folder: Path, *overrides: str) -> tuple[Config, RunDirectory]:
    config = load_config(settings, [f"folder={folder}", "name=run", *overrides])
    return config, RunDirectory.create(config)


def carry_out(config: Config, run: RunDirectory, crew: Crew) -> dict[str, np.ndarray]:
    with Display(Console(quiet=True), config.iterations) as display:
        train(config, crew, run, display)
    return adapter(run)


def adapter(run: RunDirectory) -> dict[str, np.ndarray]:
    return load_file(checkpoint.newest(run.checkpoints) / "pytorch_lora_weights.safetensors")


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def go_back(run: RunDirectory, checkpoints: int) -> dict[str, np.ndarray]:
    """Lose the newest checkpoints, as if the driver had been killed before them; returns the adapter to go on from."""
    for folder in checkpoint.list_all(run.checkpoints)[-checkpoints:]:
        shutil.rmtree(folder)
    return adapter(run)


def kill(role: str, when: Path) -> threading.Thread:
    """Kill -9 one actor process of a role as soon as a file exists."""

    def work() -> None:
        while not when.exists():
            time.sleep(0.01)
        raylet = psutil.Process(ray._private.worker._global_node.all_processes["raylet"][0].process.pid)
        victims = [p for p in raylet.children(recursive=True) if f"ray::{role}" in " ".join(p.cmdline())]
        os.kill(victims[0].pid, signal.SIGKILL)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def undisturbed(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, dict]:
    """The run that all others must equal: one sampler, nothing killed."""
    config, run = make_run(settings, tmp_path_factory.mktemp("undisturbed"))
    crew = make_crew(config, PLACEMENT)
    final = carry_out(config, run, crew)
    dismiss(crew)
    return run, final


def test_ratios_are_one_and_nothing_is_clipped_before_the_first_update(undisturbed: tuple[RunDirectory, dict]) -> None:
    metrics = undisturbed[0].metrics()
    assert len(metrics["ratio/first"]) == 4
    assert all(value <= 1e-5 for _, value in metrics["ratio/first"])
    assert all(value == 0 for side in ("winner", "loser") for _, value in metrics[f"clip/{side}"])
    assert all(value == 0 for _, value in metrics["staleness"])


def test_every_figure_on_record_is_documented(undisturbed: tuple[RunDirectory, dict]) -> None:
    assert undocumented(undisturbed[0].metrics()) == []


def test_reported_statistics_are_those_of_the_samples(undisturbed: tuple[RunDirectory, dict]) -> None:
    """Means of every split, and the combined reward, standardised by the moments of the run so far."""
    run, metrics = undisturbed[0], {name: dict(values) for name, values in undisturbed[0].metrics().items()}
    samples = pandas.read_parquet(run.path / "samples.parquet")
    names = list(run.config.rewards)
    so_far: list[float] = []
    for iteration in range(1, 5):
        batch = samples[(samples.iteration == iteration) & (samples.split == "training")]
        for name in names:
            assert metrics[f"score/{name}"][iteration] == pytest.approx(batch[name].mean(), rel=1e-5)
        scores = batch.jpeg_compressibility.tolist()
        so_far += scores
        combined = (np.array(scores) - np.mean(so_far)) / np.std(so_far)
        assert metrics["reward/mean"][iteration] == pytest.approx(combined.mean(), abs=1e-4)
        assert metrics["reward/std"][iteration] == pytest.approx(combined.std(), rel=1e-3)
    for iteration in (0, 2, 4):
        for split in ("train", "held_out"):
            evaluated = samples[(samples.iteration == iteration) & (samples.split == split)]
            assert len(evaluated) == 4
            for name in names:
                assert metrics[f"eval/{split}/{name}"][iteration] == pytest.approx(evaluated[name].mean(), rel=1e-5)


def test_images_are_counted_once_and_versions_never_go_back(undisturbed: tuple[RunDirectory, dict]) -> None:
    run, metrics = undisturbed[0], {name: dict(values) for name, values in undisturbed[0].metrics().items()}
    samples = pandas.read_parquet(run.path / "samples.parquet")
    training = samples[samples.split == "training"]
    counted = training.groupby("iteration").size()
    assert not training.duplicated(["iteration", "prompt_index", "sample_index"]).any()
    assert counted.to_dict() == {iteration: metrics["samples"][iteration] for iteration in range(1, 5)}
    assert counted.cumsum().to_dict() == {iteration: metrics["images_drawn"][iteration] for iteration in range(1, 5)}
    actors = [name for name in metrics if re.fullmatch("sampler/.*/images", name)]
    assert counted.to_dict() == {i: sum(metrics[name].get(i, 0) for name in actors) for i in range(1, 5)}
    assert training.groupby("iteration").version.unique().map(list).to_dict() == {i: [i - 1] for i in range(1, 5)}
    for name in metrics:
        if re.fullmatch("sampler/.*/version|reward_queries|images_drawn|network_evaluations", name):
            values = list(metrics[name].values())
            assert values == sorted(values)


def test_the_spans_of_the_driver_add_up_to_its_time_and_hold_all_others(undisturbed: tuple[RunDirectory, dict]) -> None:
    """Within 2 % of the time from the first to the last; the clocks of all are this machine's."""
    spans = [span for _, span in undisturbed[0].timeline(100)]
    driver = [span for span in spans if span.who == DRIVER]
    begin, end = min(span.started for span in driver), max(span.started + span.seconds for span in driver)
    assert sum(span.seconds for span in driver) == pytest.approx(end - begin, rel=0.02)
    assert {span.what for span in driver} == {"starting", "sampling", "learning", "checkpoint", "evaluation"}
    others = [span for span in spans if span.who != DRIVER]
    assert {span.what for span in others} == {"rollout", "score", "update"}
    allowed = 0.02 * (end - begin)
    assert all(begin - allowed <= span.started <= span.started + span.seconds <= end + allowed for span in others)
    metrics = {name: dict(values) for name, values in undisturbed[0].metrics().items()}
    updates = {iteration: span.seconds for iteration, span in undisturbed[0].timeline(100) if span.what == "update"}
    assert updates == metrics["time/learn"]


def test_training_changes_the_weights_and_records_everything(undisturbed: tuple[RunDirectory, dict]) -> None:
    run, final = undisturbed
    assert any(np.abs(array).max() > 0 for name, array in final.items() if "lora_B" in name or "lora.up" in name)
    assert [i for i, _ in run.metrics()["eval/train/jpeg_compressibility"]] == [0, 2, 4]
    assert {p.name for p in (run.path / "images").glob("*.png")} >= {"train-000000.png", "held_out-000004.png"}


def test_three_samplers_one_of_which_is_killed_and_a_killed_reward_actor_change_nothing(
    settings: Path, tmp_path: Path, undisturbed: tuple[RunDirectory, dict]
) -> None:
    config, run = make_run(settings, tmp_path, "samplers.count=3")
    crew = make_crew(config, PLACEMENT)
    parts = run.path / "metrics.parquet"
    killers = kill("Sampler", parts / "000001.parquet"), kill("RewardActor", parts / "000002.parquet")
    final = carry_out(config, run, crew)
    for killer in killers:
        killer.join(timeout=10)
    dismiss(crew)
    assert [pool.deaths for pool in (crew.samplers, *crew.rewards.values())] == [1, 1]
    assert same(final, undisturbed[1])


def test_a_failure_in_the_last_evaluation_loses_no_update_and_a_resumed_run_only_evaluates(
    settings: Path, tmp_path: Path, undisturbed: tuple[RunDirectory, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = make_run(settings, tmp_path)
    crew = make_crew(config, PLACEMENT)
    evaluate = cluster.loop.evaluate
    monkeypatch.setattr(cluster.loop, "evaluate", lambda *of: evaluate(*of) if of[2] < config.iterations else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        carry_out(config, run, crew)
    dismiss(crew)
    assert same(adapter(run), undisturbed[1])
    monkeypatch.undo()
    monkeypatch.setattr(cluster.loop.Sampled, "batch", None)  # nothing is left to train on
    crew = make_crew(config, PLACEMENT)
    assert same(carry_out(config, run, crew), undisturbed[1])
    dismiss(crew)
    volatile = ("time/", "busy/", "overlap", "images_per_second", "sampler/", "publish", "queue/")
    steady = [
        {name: values for name, values in of.metrics().items() if not name.startswith(volatile)}
        for of in (run, undisturbed[0])
    ]
    assert steady[0] == steady[1]


def test_a_killed_learner_rank_is_named_and_the_run_continues_from_its_checkpoint(
    settings: Path, tmp_path: Path, undisturbed: tuple[RunDirectory, dict]
) -> None:
    """To the weights of one rank, apart from rounding; `tests/learner/test_ranks.py` continues bit for bit."""
    config, run = make_run(settings, tmp_path, "learner.ranks=2")
    crew = make_crew(config, PLACEMENT)
    kill("LearnerActor", run.path / "metrics.parquet" / "000003.parquet")
    with pytest.raises((ray.exceptions.RayActorError, ray.exceptions.RayTaskError)) as caught:
        carry_out(config, run, crew)
    assert re.match(r"Learner rank [01] died", crew.learner.lost(caught.value) or "")
    dismiss(crew)
    crew = make_crew(config, PLACEMENT)
    final = carry_out(config, run, crew)
    dismiss(crew)
    assert [value for _, value in run.metrics()["updates"]] == [
        value for _, value in undisturbed[0].metrics()["updates"]
    ]
    for name, values in undisturbed[1].items():  # four optimizer steps of 0.01 a parameter
        np.testing.assert_allclose(final[name], values, atol=1e-3)


def test_an_offline_run_draws_once_from_the_pretrained_model_and_resumes_the_same(
    settings: Path, tmp_path: Path
) -> None:
    overrides = ("objective.offline_batches=2", "objective.reference=pretrained", "learner.lr_schedule=constant")
    config, run = make_run(settings, tmp_path, *overrides)
    finals = []
    for _ in range(2):
        crew = make_crew(config, PLACEMENT)
        finals.append(carry_out(config, run, crew))
        dismiss(crew)
        assert [value for _, value in run.metrics()["staleness"]] == [0, 1, 2, 3]
        go_back(run, checkpoints=1)
    assert same(*finals)


def test_a_pipelined_run_stays_within_its_staleness(settings: Path, tmp_path: Path) -> None:
    config, run = make_run(settings, tmp_path, "samplers.max_staleness=1")
    crew = make_crew(config, PLACEMENT)
    carry_out(config, run, crew)
    dismiss(crew)
    staleness = [value for _, value in run.metrics()["staleness"]]
    assert len(staleness) == 4
    assert max(staleness) == 1


def test_samplers_act_with_what_the_learner_published(settings: Path, tmp_path: Path) -> None:
    config, _ = make_run(settings, tmp_path)
    crew = make_crew(config, PLACEMENT)
    rollouts = Rollouts(crew.samplers, crew.rewards)
    (request,) = make_requests(("a red circle",), 4, 4, seed=0, iteration=0, stored_steps=(0, 1, 2))

    def trajectories(version: int):  # type: ignore[no-untyped-def]
        rollouts.submit(version, request, version)
        while (done := rollouts.take(version)) is None:
            rollouts.wait()
        return ray.get(done.trajectories)

    weights = crew.learner.weights()
    ray.get(crew.store.publish.remote([weights]))
    before = trajectories(0)
    scores = {"jpeg_compressibility": np.array([3.0, -1.0, 2.0, 0.5], np.float32)}
    (update,), weights = crew.learner.update(scores, [before])
    ray.get(crew.store.publish.remote([weights]))
    after = trajectories(ray.get(update).version)
    dismiss(crew)
    assert (before.version, after.version) == (0, 1)
    assert np.array_equal(before.latents[:, 0], after.latents[:, 0])  # the same x_T
    assert not np.array_equal(before.next_latents[:, 1], after.next_latents[:, 1])


def test_a_run_without_rewards_stops_with_a_sentence(settings: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\na cat\n")
    config, run = make_run(
        settings, tmp_path, f"prompts.train={tmp_path}/prompts.txt", "rewards.shapes_gold.weight=1.0"
    )
    crew = make_crew(config, PLACEMENT)
    with pytest.raises(RunStopped, match="50% of an iteration's samples got no reward"):
        carry_out(config, run, crew)
    dismiss(crew)


def test_gradients_from_reward_actors_are_those_of_the_learners_own_rewards(settings: Path, tmp_path: Path) -> None:
    nabla = [
        "objective={name: residual_nabla_db, step_fraction: 0.5, flow: {widths: [8], heads: 2, groups: 4}}",
        "rewards={jpeg_compressibility: {weight: 0}, shapes_agreement: {weight: 1}}",
        "iterations=2",
    ]
    found = []
    for place in ("learner", "actors"):
        config, run = make_run(settings, tmp_path / place, *nabla, f"reward_actors.gradients={place}")
        crew = make_crew(config, PLACEMENT)
        try:
            found.append(carry_out(config, run, crew))
        finally:
            dismiss(crew)
        assert undocumented(run.metrics()) == []
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-3, atol=1e-5)
    assert any(values.any() for name, values in found[0].items() if "lora_B" in name or "up" in name)


def test_a_gradient_informed_run_resumes_with_its_flow_function(settings: Path, tmp_path: Path) -> None:
    config, run = make_run(
        settings,
        tmp_path,
        "objective={name: residual_nabla_db, step_fraction: 0.5, flow: {widths: [8], heads: 2, groups: 4}}",
        "rewards={jpeg_compressibility: {weight: 0}, shapes_agreement: {weight: 1}}",
    )
    finals = []
    for _ in range(2):
        crew = make_crew(config, PLACEMENT)
        finals.append(carry_out(config, run, crew))
        dismiss(crew)
        early = go_back(run, checkpoints=1)
    assert same(*finals)
    assert not same(finals[0], early)
