"""The configuration of a run: one frozen, typed class a role; a YAML file, then `key=value` overrides.

Nothing starts before the whole configuration is known to work: unknown keys, wrong types and combinations that cannot
work are refused here, each in one sentence.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field, ValidationError, model_validator

from actors.policy import PolicyConfig, check_model
from cluster.prompts import read_prompts
from learner.learner import LearnerConfig
from learner.objectives import ObjectiveConfig
from learner.objectives.ppod import PPODConfig
from rewards import REWARDS, make_reward, reward_class
from rewards.environments import locate
from rewards.reward import Reward, UnknownReward
from rewards.standardise import Standardise
from shapes import PIPELINE


class ConfigError(Exception):
    """A configuration that cannot work; the message is one sentence for the user."""


class RewardConfig(BaseModel, frozen=True, extra="forbid"):
    """One reward."""

    kind: str | None = Field(
        None,
        description="A reward's name, module:Class of one's own, or grpc://host:port; null: the key itself.",
    )
    weight: float = Field(1.0, description="Share in the combined reward; 0 only watches.")
    options: dict[str, Any] = Field({}, description="Keyword arguments of the reward's class.")
    environment: str | None = Field(
        None,
        description="Where its actors find the packages that the driver does not have: a requirements file (*.txt), "
        "which each node installs, or a Python interpreter that every node has; null: what the reward's class says.",
    )


class CombinationConfig(BaseModel, frozen=True, extra="forbid"):
    """How several rewards become one: each is standardised, then they are summed by weight."""

    standardise: Standardise | None = Field(
        None,
        description="What each reward is standardised by: its moments over the run, the samples of the prompt in the "
        "batch (group), the last scores of the prompt over the batches (prompt), or nothing; null is run for "
        "objectives that only compare samples, and nothing for those whose target is exp(beta r).",
    )
    buffer: int = Field(16, ge=1, description="Last scores of each prompt that standardise=prompt remembers.")
    min_count: int = Field(16, ge=1, description="How many of them it needs; until then the whole batch serves.")


class PromptsConfig(BaseModel, frozen=True, extra="forbid"):
    """What is asked of the policy."""

    train: str = Field(
        "shapes:hard", description="UTF-8 text file, one prompt a line; or shapes:hard, shapes:held_out."
    )
    held_out: str = Field("shapes:held_out", description="The same, for evaluation only.")
    per_iteration: int | None = Field(
        56,
        ge=1,
        description="Groups of samples of an iteration; null is one a prompt. Where there are more than prompts, a "
        "prompt comes again, each time as a group of its own with an initial noise of its own.",
    )
    samples: int = Field(24, ge=1, description="Samples of each prompt in an iteration (the group).")


class RoleConfig(BaseModel, frozen=True, extra="forbid"):
    """What each actor of a role asks of a cluster."""

    cpus: float = Field(1, ge=0, description="CPUs that each reserves on a cluster.")
    gpus: float = Field(0, ge=0, description="GPUs that each reserves on a cluster; fractions share one.")
    labels: dict[str, str] = Field({}, description="Labels that its node must have, such as ray.io/accelerator-type.")


class SamplersConfig(RoleConfig, frozen=True, extra="forbid"):
    """The sampler actors and how far ahead they work."""

    count: int = Field(1, ge=1, description="Sampler actors.")
    min_count: int | None = Field(
        None, ge=1, description="Start when so many are up; the others join when the cluster has room. null: all."
    )
    request_size: int = Field(96, ge=1, description="Samples of one rollout call, the same wherever it runs.")
    max_staleness: int = Field(0, ge=0, description="Versions a rollout may lag behind; 0 is synchronous.")


class RewardActorsConfig(RoleConfig, frozen=True, extra="forbid"):
    """The reward actors, and what each reserves on a cluster."""

    count: int = Field(1, ge=1, description="Actors.")
    gradients: Literal["learner", "actors"] = Field(
        "learner",
        description="Where objectives that ask for more than scores get it: from copies of the rewards in the "
        "learner's own process, or from the reward actors (images and gradients then cross the wire).",
    )


class LearnerActorConfig(LearnerConfig, RoleConfig, frozen=True, extra="forbid"):
    """The optimizer, the processes that share its work, and what they reserve."""

    ranks: int = Field(1, ge=1, description="Learner processes that share each batch; the result is that of one.")
    rank_timeout: float = Field(
        600, gt=0, description="Seconds that a rank waits for the others before they count as lost."
    )


class EvaluationConfig(BaseModel, frozen=True, extra="forbid"):
    """Evaluation with fixed prompts and seeds that are never trained on; before, during and after."""

    every: int = Field(2, ge=0, description="Iterations between evaluations; 0 evaluates only before and after.")
    samples: int = Field(32, ge=2, description="Images of each training prompt.")
    held_out_samples: int = Field(9, ge=2, description="Images of each held-out prompt.")
    features: str | None = Field(
        "shapes_agreement", description="Reward whose image features measure diversity within a prompt; null: none."
    )


class CheckpointConfig(BaseModel, frozen=True, extra="forbid"):
    """Checkpoints."""

    every: int = Field(2, ge=1, description="Iterations between checkpoints.")
    keep: int = Field(3, ge=0, description="How many of the newest are kept; 0 keeps all.")


class PatienceConfig(BaseModel, frozen=True, extra="forbid"):
    """Seconds after which a phase that has not ended is taken to hang: its actor is killed and its work done again."""

    room: float = Field(
        0, ge=0, description="Until the cluster has room, where it can grow; 0 refuses at once what does not fit."
    )
    start: float = Field(900, gt=0, description="Until the actors' models are loaded.")
    sample: float = Field(900, gt=0, description="A rollout of one request.")
    score: float = Field(900, gt=0, description="The rewards of one request.")
    learn: float = Field(3600, gt=0, description="An update.")


class FailureConfig(BaseModel, frozen=True, extra="forbid"):
    """How much may go wrong before the run stops."""

    max_dropped_share: float = Field(0.2, ge=0, le=1, description="Share of an iteration's samples without a reward.")
    max_deaths: int = Field(20, ge=0, description="Deaths of actors of one role, over the whole run.")
    patience: PatienceConfig = PatienceConfig()


class Config(BaseModel, frozen=True, extra="forbid"):
    """A run, completely."""

    name: str | None = Field(None, description="Of the run's folder; null makes one from objective and time.")
    folder: str = Field("runs", description="Where runs are kept.")
    seed: int = Field(0, ge=0, lt=2**63, description="Of everything that is random.")
    iterations: int = Field(4, ge=1, description="Batches to train on.")
    policy: PolicyConfig = PolicyConfig()
    objective: ObjectiveConfig = PPODConfig()
    rewards: dict[str, RewardConfig] = {
        "shapes_agreement": RewardConfig(),
        "shapes_gold": RewardConfig(weight=0.0),
    }
    combination: CombinationConfig = CombinationConfig()
    reward_actors: RewardActorsConfig = RewardActorsConfig()
    prompts: PromptsConfig = PromptsConfig()
    samplers: SamplersConfig = SamplersConfig()
    learner: LearnerActorConfig = LearnerActorConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    failures: FailureConfig = FailureConfig()

    @model_validator(mode="after")
    def _works(self) -> Config:
        objective = self.objective.build()
        if objective.needs_groups and self.prompts.samples < 2:
            raise ValueError(
                f"prompts.samples is {self.prompts.samples}, but {self.objective.name} compares samples of the same "
                "prompt; give at least 2"
            )
        if (least := self.samplers.min_count) and least > self.samplers.count:
            raise ValueError(f"samplers.min_count is {least}, but samplers.count is only {self.samplers.count}")
        try:
            environments = self.environments
        except (UnknownReward, FileNotFoundError) as error:
            raise ValueError(str(error).rstrip(".")) from None
        if not any(reward.weight for reward in self.rewards.values()):
            raise ValueError("every reward has weight 0, so there is nothing to learn from; give one a weight")
        if objective.needs_reward == "gradients":
            for name, reward in self.rewards.items():
                if reward.weight and not self._class(name).differentiable:
                    raise ValueError(
                        f"rewards.{name} has no gradient with respect to the image, which {self.objective.name} needs; "
                        "give it weight 0 to watch it, or choose another objective"
                    )
        if objective.needs_reward != "nothing" and self.reward_actors.gradients == "learner":
            isolated = {name for environment, names in environments.items() if environment for name in names}
            for name, reward in self.rewards.items():
                if reward.weight and name in isolated:
                    raise ValueError(
                        f"rewards.{name} lives in an environment of its own, so the learner cannot hold the copy "
                        f"that {self.objective.name} asks for; set reward_actors.gradients=actors"
                    )
        if objective.needs_reward != "nothing" and self.standardise != "nothing":
            raise ValueError(
                f"{self.objective.name} trains on the reward itself, which standardising would move; "
                "leave combination.standardise null, or set it to nothing"
            )
        if self.standardise == "prompt" and self.combination.min_count > self.combination.buffer:
            raise ValueError(
                f"combination.min_count is {self.combination.min_count}, but only the last {self.combination.buffer} "
                "scores of a prompt are remembered (combination.buffer)"
            )
        if self.evaluation.features is not None and self.evaluation.features not in self.rewards:
            raise ValueError(
                f"evaluation.features names {self.evaluation.features!r}, which is not among the rewards; add it with "
                "weight 0, or set evaluation.features=null"
            )
        try:
            check_model(self.pipeline)
        except FileNotFoundError as error:
            raise ValueError(str(error).rstrip(".")) from None
        read_prompts(self.prompts.train)
        read_prompts(self.prompts.held_out)
        if self.batch_size % self.samplers.request_size:
            fits = max(d for d in range(1, self.samplers.request_size) if self.batch_size % d == 0)
            raise ValueError(
                f"samplers.request_size={self.samplers.request_size} does not divide the {self.batch_size} samples of "
                f"an iteration; {fits} does"
            )
        return self

    @property
    def environments(self) -> dict[str | None, tuple[str, ...]]:
        """The names of the rewards by the environment that they live in; `None` is the driver's own."""
        found: dict[str | None, tuple[str, ...]] = {}
        for name, reward in self.rewards.items():
            environment = reward.environment or self._class(name).environment
            path = str(locate(environment)) if environment else None
            found[path] = (*found.get(path, ()), name)
        return found

    @property
    def makers(self) -> dict[str, Callable[[], Reward]]:
        """What makes each reward, by name, where its packages are."""
        return {name: partial(make_reward, self._kind(name), **r.options) for name, r in self.rewards.items()}

    def _class(self, name: str) -> type[Reward]:
        return reward_class(self._kind(name))

    def _kind(self, name: str) -> str:
        return self.rewards[name].kind or name

    @property
    def standardise(self) -> Standardise:
        """What rewards are standardised by before weighting, with null resolved."""
        compares = self.objective.build().needs_reward == "nothing"
        return self.combination.standardise or ("run" if compares else "nothing")

    @property
    def prompts_per_iteration(self) -> int:
        """How many prompts an iteration asks for."""
        return self.prompts.per_iteration or len(read_prompts(self.prompts.train))

    @property
    def batch_size(self) -> int:
        """Samples of an iteration."""
        return self.prompts_per_iteration * self.prompts.samples

    @property
    def pipeline(self) -> str:
        """Where the model is: `policy.model`, with the embedded world's name resolved."""
        return str(PIPELINE) if self.policy.model == "shapes" else self.policy.model

    def save(self, path: Path) -> None:
        """Write the resolved configuration as YAML that `load_config` reads back."""
        path.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Defaults, then a YAML file, then `key=value` overrides.

    Raises:
        ConfigError: In one sentence, whatever is wrong.
    """
    try:
        given = OmegaConf.load(path) if path else OmegaConf.create()
    except FileNotFoundError:
        raise ConfigError(f"There is no config file {path}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"The config file {path} cannot be read: {' '.join(str(error).split())}.") from error
    if not OmegaConf.is_dict(given):
        raise ConfigError(f"The config file {path} is not a mapping of settings.")
    # Overrides of single rewards add to the default ones; a file that lists rewards replaces them.
    defaults: dict[str, Any] = {"objective": {"name": "ppod"}}
    if "rewards" not in given:
        defaults["rewards"] = Config.model_fields["rewards"].default
        defaults["rewards"] = {name: reward.model_dump() for name, reward in defaults["rewards"].items()}
    merged = OmegaConf.merge(defaults, given, *[_override(text) for text in overrides])
    try:
        return Config.model_validate(OmegaConf.to_container(merged, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"The configuration cannot be resolved: {' '.join(str(error).split())}.") from error
    except ValidationError as error:
        raise ConfigError(" ".join(_sentence(detail) for detail in error.errors()[:3])) from None


def _override(text: str) -> DictConfig:
    if "=" not in text:
        raise ConfigError(f"{text!r} is not an override; write key=value, such as learner.lr=1e-4.")
    try:
        return OmegaConf.from_dotlist([text])
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"The override {text!r} cannot be read: {' '.join(str(error).split())}.") from error


def _sentence(detail: Any) -> str:
    # Pydantic puts the name of the union's member into the location; it is no part of the key.
    objectives = [model.model_fields["name"].default for model in _objectives()]
    location = [str(part) for part in detail["loc"]]
    if len(location) > 1 and location[0] == "objective" and location[1] in objectives:
        del location[1]
    key = ".".join(location)
    if detail["type"] == "extra_forbidden":
        known = sorted(set(_keys(Config)))
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        return f"There is no setting {key!r}" + (f"; did you mean {near[0]!r}?" if near else ".")
    if detail["type"] == "union_tag_invalid":
        near = difflib.get_close_matches(str(detail["input"].get("name")), objectives, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(objectives)}."
        return f"There is no objective {detail['input'].get('name')!r}; {hint}"
    if detail["type"] == "value_error":
        message = str(detail["ctx"]["error"])
        if key:
            return f"{key}: {message}."
        is_setting = "." in message.split()[0]
        return f"{message}." if is_setting else f"{message[0].upper()}{message[1:]}."
    return f"The setting {key!r} is {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}."


def _objectives() -> tuple[type[BaseModel], ...]:
    return typing.get_args(typing.get_args(ObjectiveConfig)[0]) or (typing.get_args(ObjectiveConfig)[0],)


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of the configuration."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if name == "rewards":
            for reward in REWARDS:
                yield from _keys(RewardConfig, f"{prefix}{name}.{reward}.")
        nested = _objectives() if name == "objective" else (field.annotation,)
        for inner in nested:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _keys(inner, f"{prefix}{name}.")
