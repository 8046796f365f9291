"""Time to the same gold score, each side at its own defaults: a peer's adapter after so many minutes, then our run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from actors.policy import Policy
from actors.rollout import rollout
from benchmarks.peers.compared import EQUAL_WORK, work_of
from benchmarks.peers.process import ROOT, Process
from benchmarks.peers.work import Work
from cluster.config import Config, load_words
from cluster.errors import ConfigError
from cluster.prompts import make_requests, read_prompts
from cluster.records.files import writable
from learner import checkpoint
from rewards.reward import to_images
from rewards.shapes_gold import ShapesGold

_EACH = 64  # images of a prompt
# Everything that a run is watched by is left out, and every adapter kept.
_WORDS = ("name=ours", "evaluation={every: 0, samples: 2, held_out_samples: 2}", "checkpoints={every: 1, keep: 0}")


def to_gold(begin: Callable[[Work], Process], settings: Sequence[str], minutes: float, folder: Path) -> None:
    """Train the peer, train with ours, ask how good their adapters are, and print.

    Args:
        begin: The peer's process.
        settings: Of our run, as on a command line.
        minutes: That the peer trains.
        folder: Where adapters go, or where this has put them before: a part that is whole is taken for the result, one
            that was not finished is made anew.

    Raises:
        ConfigError: If the peer or our run ends before its time, or the folder holds something else. And what `begin`
            raises.
    """
    config, peer, ours = load_words(settings), folder / "peer", folder / "ours"
    claim(folder, load_words([*settings, *_WORDS]), minutes)
    epochs, times = peer / "epochs.json", folder / "seconds.json"  # written last, each of its part
    if not epochs.exists():
        _clear(peer)
        process = begin(work_of([str(EQUAL_WORK), *_same(config)]))
        try:
            process.train(60 * minutes, peer)
        finally:
            process.close()
    if not times.exists():
        _clear(ours)
        _run(settings, folder)
    seconds = {int(number): of for number, of in json.loads(times.read_text()).items()}
    base = gold(None, config)
    print(f"gold of the base model {base:.3f}; fixed seeds, {_EACH} images of each trained prompt", flush=True)
    theirs = {_minute(path): gold(path, config) for path in sorted(peer.glob("minute-*"), key=_minute)}
    last, did = gold(peer / "last", config), json.loads(epochs.read_text())
    marks = [f"{of:.3f} after {minute} min" for minute, of in theirs.items()]
    print(f"the peer: {', '.join([*marks, f'{last:.3f} at its end'])}")
    print(f"the peer did {did['epochs']} epochs of {did['images'] / did['epochs']:.0f} images", flush=True)
    own = {number: gold(ours / "checkpoints" / f"iteration-{number:06d}", config) for number in sorted(seconds)}
    for number, of in own.items():
        print(f"ours after {seconds[number]:.0f} s, {number} iterations: {of:.3f}", flush=True)
    print(verdict(theirs, last, did["seconds"], own, seconds))


def claim(folder: Path, config: Config, minutes: float) -> None:
    """Take a folder for the results of a run and so many minutes of the peer's.

    Args:
        folder: That is not there, or is empty, or was taken for the same before: `asked.json` in it says for what.
        config: Of our run; wherever it writes.
        minutes: That the peer trains.

    Raises:
        ConfigError: If something else is in it, or it is a file.
        WriteError: If it cannot be written to.
    """
    asked = json.dumps({"minutes": minutes, "config": config.model_dump(mode="json", exclude={"folder"})}, indent=1)
    file = folder / "asked.json"
    if file.exists() and file.read_text() == asked:
        return
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder with --folder.")
    if folder.exists() and any(folder.iterdir()):
        what = f"results of other settings or minutes ({file.name} says which)" if file.exists() else "other files"
        raise ConfigError(f"{folder} holds {what}; set another --folder, or move it away.")
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(asked)


def verdict(
    theirs: Mapping[int, float], last: float, spent: float, own: Mapping[int, float], seconds: Mapping[int, float]
) -> str:
    """When each side first had the gold score of the peer's last adapter, in words.

    Args:
        theirs: Gold of the peer's adapters by minute.
        last: That of its last one.
        spent: Seconds until then.
        own: Gold of our adapters by iteration.
        seconds: Until each of ours was there.
    """
    reached = first_time(own, seconds, last)
    if reached is None:
        return f"ours does not reach the peer's {last:.3f} in {max(seconds.values()):.0f} s"
    needed = first_time(theirs, {minute: 60.0 * minute for minute in theirs}, last) or spent
    return f"gold {last:.3f}: theirs {needed:.0f} s, ours {reached:.0f} s, theirs / ours {needed / reached:.2f}"


def first_time(gold: Mapping[int, float], seconds: Mapping[int, float], wanted: float) -> float | None:
    """Seconds after which a gold score was first reached, `None` if it never was; both are by iteration or minute."""
    return next((seconds[number] for number in sorted(gold) if gold[number] >= wanted), None)


def gold(adapter: Path | None, config: Config) -> float:
    """The mean gold score of an adapter's pictures of the trained prompts, from seeds that nobody trains on.

    Args:
        adapter: A folder; `None` is the pretrained model.
        config: Of our run; the chain and its guidance are everybody's.
    """
    from_file = {"init_lora": str(adapter) if adapter else None, "lora_rank": None, "lora_alpha": None}
    policy = Policy.load(config.policy.model_copy(update={"model": config.pipeline, **from_file}), config.seed)
    judge, scores = ShapesGold(), []
    size = config.samplers.request_size
    for request in make_requests(read_prompts(config.prompts.train), _EACH, size, seed=config.seed):
        scores.append(judge.score(to_images(rollout(policy, request)[0]), request.prompts))
    return float(np.mean(np.concatenate([each.numpy() for each in scores])))


def _clear(part: Path) -> None:
    """Remove what was not finished, and could not be timed if it were continued."""
    if part.exists():
        shutil.rmtree(part)


def _same(config: Config) -> list[str]:
    """What the peer has of our run: the pipeline, the prompts once each, the chain."""
    policy, prompts = config.policy, config.prompts
    count = len(read_prompts(prompts.train))
    return [
        f"policy={{model: {policy.model}, steps: {policy.steps}, guidance: {policy.guidance}}}",
        f"prompts={{train: '{prompts.train}', per_iteration: {count}, samples: 1}}",
        f"samplers.request_size={count}",
    ]


def _run(settings: Sequence[str], folder: Path) -> None:
    """Our run; writes when each iteration's adapter was there, in seconds from the start of the command."""
    started = time.time()
    command = [sys.executable, "-m", "cluster.local", *settings, f"folder={folder}", *_WORDS]
    if subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode:
        raise ConfigError("Our run has ended before its time; it says why above.")
    written = {path: path / "manifest.json" for path in checkpoint.list_all(folder / "ours" / "checkpoints")}
    seconds = {int(path.name[-6:]): manifest.stat().st_mtime - started for path, manifest in written.items()}
    (folder / "seconds.json").write_text(json.dumps(seconds))


def _minute(path: Path) -> int:
    return int(path.name.removeprefix("minute-"))
