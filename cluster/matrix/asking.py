"""What an evaluation is asked for, refused in a sentence where it cannot be had."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.model_check import check_model, check_prompts
from actors.model_files import fetch
from cluster.config import Config, change, check, read_config
from cluster.config.rules import (
    gpus_can_be_reserved,
    rewards_are_there,
    rewards_have_plain_names,
    samplers_are_enough,
)
from cluster.config.sentences import of_rule
from cluster.errors import ConfigError
from cluster.matrix.draws import Draw, crossed_requests, digest, plain_requests
from cluster.matrix.entries import Entry, find_models, make_entries
from cluster.matrix.implicit import Pairs
from cluster.matrix.store import Column
from cluster.prompts import read_prompts, spread
from cluster.records.masking import masked_word
from cluster.start_images import check_starts, image_of
from cluster.trained import Trained, checksum
from rewards import is_remote
from rewards.prompt import Prompt
from rewards.reward import Reward

_SETTING = re.compile(r"[a-z][a-z_.]*[\w.-]*=")
_OF_ACTORS = ("rewards.", "reward_actors.", "samplers.", "failures.")
_TAKEN = {"policy", "rewards", "reward_actors", "samplers", "failures"}
# Options of a reward service that decide nothing of its answers.
_WAY_IN = {"token", "token_file", "authority", "certificate", "key", "insecure", "deadline", "patience"}


@dataclass(frozen=True)
class Matrix:
    """An evaluation that can begin: models by what is judged of their pictures."""

    config: Config  # of samplers and rewards
    entries: tuple[Entry, ...]
    columns: tuple[Column, ...]
    shape: tuple[int, int, int]  # of the crossed design
    pairs: Pairs | None
    facts: dict[str, Any]  # what is asked, as JSON has it

    @property
    def draws(self) -> list[Draw]:
        """Everything that is drawn."""
        found = [draw for entry in self.entries for draw in (entry.draw, entry.crossed) if draw is not None]
        return list({draw.key: draw for draw in found}.values())

    @property
    def pictures(self) -> int:
        """Of each model, those of the crossed design not counted."""
        return sum(len(request.prompts) for request in self.entries[0].draw.requests)

    @property
    def name(self) -> str:
        """Of its folder, where none is given."""
        names = list(dict.fromkeys(entry.group for entry in self.entries if not entry.is_base))
        return "-".join(names[:3]).replace("/", "_")[:100] if names else self.entries[0].name.replace("/", "_")


def ask(
    words: Sequence[str],
    *,
    prompts: str | None,
    most: int | None,
    samples: int,
    seed: int | None,
    rewards: Sequence[str],
    features: Sequence[str] | None,
    crossed: tuple[int, int] | None,
    pairs: Pairs | None,
    every: bool,
    average: bool,
) -> Matrix:
    """Make an evaluation of what a command line says.

    Raises:
        ConfigError, ValueError: In one sentence, if it cannot work.
        CheckpointError: If a checkpoint is not whole.
    """
    settings = [word for word in words if _SETTING.match(word)]
    of_actors = [word for word in settings if word.startswith(_OF_ACTORS)]
    sources = [word for word in words if word not in settings]
    for word in settings:
        if word.split("=")[0].split(".")[0] in Config.model_fields.keys() - _TAKEN:
            raise ConfigError(
                f"{word} is none of the settings that an evaluation takes: the policy's, such as guidance=3, and those "
                f"of {', '.join(_OF_ACTORS)}."
            )
    if not sources:
        raise ConfigError("Name what is to be judged: a run's folder, a checkpoint or a model.")
    models = find_models(sources, [word for word in settings if word not in of_actors], every, average)
    run = next((model.run for model in models if model.run), None)
    listed = _prompts(prompts, run, most)
    wanted = features if features is not None else [run.evaluation.features] if run and run.evaluation.features else []
    config, scored = _config(models, rewards, wanted, of_actors)
    if crossed and any(image_of(prompt) for prompt in listed):
        raise ConfigError("Prompts with pictures to begin from begin within the chain; leave out --variance.")
    if crossed and (min(crossed) < 2 or len(listed) < 2):
        raise ConfigError("A variance is split by two prompts, two initial noises and two chains at least.")
    for model in models:
        folder = fetch(model.policy.model, model.policy.variant)
        try:
            check_starts(listed, model.policy.steps)
            check_model(model.policy, folder)
            check_prompts(model.policy, listed, folder)
        except ValueError as error:
            raise ConfigError(of_rule(str(error))) from error
    chosen = seed if seed is not None else run.seed if run else 0
    size = config.samplers.request_size
    entries = make_entries(
        models,
        lambda steps: plain_requests(listed, samples, size, chosen, steps),
        (lambda steps: crossed_requests(listed, *crossed, size, chosen)) if crossed else None,
    )
    columns = [Column(name, judge(config, name), "scores") for name in scored]
    columns += [Column(name, judge(config, name), "features") for name in dict.fromkeys(wanted)]
    shape = (len(listed), *(crossed or (0, 0)))
    trained = [name for name in scored if any(m.run and m.run.weights.get(name) for m in models)]
    facts = {
        "prompts": len(listed),
        "prompts_of": prompts or (run and _own_prompts(run)),
        "settings": [masked_word(word) for word in settings],
        "samples": samples,
        "seed": chosen,
        "trained_on": trained,
        "variance": crossed,
    }
    return Matrix(config, tuple(entries), tuple(columns), shape, pairs, facts)


def _config(
    models: Sequence[Trained], rewards: Sequence[str], features: Sequence[str], words: Sequence[str]
) -> tuple[Config, list[str]]:
    """Samplers and rewards, and the names of those that are to give scores."""
    runs = [model.run for model in models if model.run]
    model = json.dumps(models[0].policy.model)
    base = runs[0] if runs else read_config(None, [f"policy.model={model}", "prompts.train=none", "rewards={}"])
    known = {name: reward for run in reversed(runs) for name, reward in run.rewards.items()}
    idle = base.learner.model_copy(update={"ranks": 1, "cpus": 0, "gpus": 0})
    samplers = base.samplers.model_copy(update={"max_staleness": 0})
    base = base.model_copy(update={"rewards": known, "data": None, "learner": idle, "samplers": samplers})
    # Settings before names, so that a reward that they describe is not described anew.
    described = change(base, words)
    new = [name for name in dict.fromkeys((*rewards, *features)) if name not in described.rewards]
    config = change(described, [f"rewards.{name}={{weight: 0}}" for name in new])
    check(config, (samplers_are_enough, rewards_have_plain_names, rewards_are_there, gpus_can_be_reserved))
    for name in rewards:
        if config.reward_class(name).features_only:
            raise ConfigError(f"The reward {name!r} has image features and no score; name it with --features.")
    scored = [name for name in config.scoring if name not in new or name in rewards]
    if not scored:
        beside = ", and features are measured beside scores" if features else ""
        raise ConfigError(
            f"{models[0].source} belongs to no run with rewards that give scores{beside}; name some with --rewards."
        )
    if taken := next((name for name in scored if name == "model"), None):
        raise ConfigError(f"The reward's name {taken!r} is taken by a column; take another.")
    for name in features:
        if config.reward_class(name).embed is Reward.embed:
            raise ConfigError(f"The reward {name!r} has no image features; name another with --features.")
    return config, scored


def _prompts(source: str | None, run: Config | None, most: int | None) -> tuple[Prompt, ...]:
    if source is None and run is None:
        raise ConfigError("Say what is to be drawn: --prompts FILE.")
    chosen = source or (run and _own_prompts(run))
    assert chosen
    try:
        return spread(read_prompts(chosen), most)  # type: ignore[return-value]
    except ValueError as error:
        raise ConfigError(of_rule(str(error))) from error


def _own_prompts(run: Config) -> str:
    return run.prompts.held_out or run.prompts.train


def judge(config: Config, name: str) -> str:
    """A reward's name with a checksum of what it is.

    That is of its settings, of the file that its class is in, and of the files that its options name, in lists too, or
    that lie in a folder which they name, on this machine. How one gets into a reward service, and how long one waits
    for it, says nothing of what it answers.
    """
    reward = config.rewards[name]
    kind = reward.kind or name
    options = {key: value for key, value in reward.options.items() if not (is_remote(kind) and key in _WAY_IN)}
    source = getattr(sys.modules.get(config.reward_class(name).__module__), "__file__", None)
    contents = [_contents(text) for text in _texts([source, *options.values()])]
    return f"{name}-{digest([kind, options, reward.environment, contents])[:8]}"


def _texts(value: object) -> Iterator[str]:
    """The texts in a value of JSON's kinds, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | Sequence):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _contents(value: str) -> str:
    path = os.path.expanduser(value)
    if os.path.isdir(path):  # of `os.path`, which a text that is no path at all does not break
        return checksum(*(file for file in sorted(Path(path).iterdir()) if file.is_file()))
    return checksum(Path(path)) if os.path.isfile(path) else ""
