"""The configuration of a run: one frozen, typed class a role.

A value of the wrong type, or out of its range, is refused by the class; what cannot work together, by a rule
(`cluster.config.rules`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from actors.config import PolicyConfig
from cluster.config.guard import GuardConfig
from cluster.prompts import EVALUATED, absolute_source, read_prompts
from cluster.start_images import first_step
from cluster.yaml_text import write
from learner.learner import LearnerConfig
from learner.objectives import ObjectiveConfig
from learner.objectives.ppod import PPODConfig
from learner.standardise import Standardise
from rewards import make_reward, reward_class
from rewards.canary import Canary
from rewards.environments import locate
from rewards.people.pick_a_pic import LABEL
from rewards.people.reward import People
from rewards.reward import Reward
from shapes import PIPELINES

_PEOPLE = "people"  # the kind of reward that no actor holds


def _absolute(path: str) -> str:
    if "\0" in path:
        raise ValueError(f"{path!r} is not the path of a folder")
    return str(Path(os.path.expanduser(path)).absolute())


def _one_or_more(names: Any) -> Any:
    return (names,) if isinstance(names, str) else names


def _absolute_file(path: str) -> str:
    return _absolute(path) if os.path.isfile(_absolute(path)) else path


Seconds = Annotated[float, Field(gt=0, le=1e8)]  # at most three years: waits beyond overflow
Count = Annotated[int, Field(ge=1, le=10_000)]  # processes: a quarter of what Ray is tested with
# Its product with a score is a float32, as are the sums; beyond this it overflows, or counts for nothing.
Weight = Annotated[float, Field(ge=-1e9, le=1e9)]
PromptSource = Annotated[str, AfterValidator(absolute_source)]


class CanaryConfig(BaseModel, frozen=True, extra="forbid"):
    """A picture whose score is known, see `python -m rewards.canary`."""

    picture: Annotated[str, AfterValidator(_absolute)] = Field(description="The file.")
    prompt: str = Field(description="What it is judged under.")
    score: float = Field(description="What a reward that is installed rightly says.")
    tolerance: float = Field(0.01, gt=0, description="How far from that an answer may be.")


class RewardConfig(BaseModel, frozen=True, extra="forbid"):
    """One reward."""

    kind: str | None = Field(
        None,
        description="A reward's name, module:Class of one's own, or grpc://host:port; null: the key itself.",
    )
    weight: Weight = Field(1.0, description="Share in the combined reward; 0 only watches.")
    options: dict[str, Any] = Field({}, description="Keyword arguments of the reward's class.")
    environment: Annotated[str, AfterValidator(_absolute_file)] | None = Field(
        None,
        description="Where its actors find the packages that the driver does not have: a requirements file (*.txt), "
        "which each node installs, or a Python interpreter that every node has; null: what the reward's class says.",
    )
    canaries: tuple[CanaryConfig, ...] = Field(
        (),
        description="Pictures whose scores are known, beside those of the reward's class: a run asks every actor of "
        "the reward about them before it starts, and refuses a reward that says something else.",
    )


class CombinationConfig(BaseModel, frozen=True, extra="forbid"):
    """How several rewards become one: each is standardised, then they are summed by weight."""

    standardise: Standardise | None = Field(
        None,
        description="What each reward is standardised by: its moments over the run, the samples that it is compared "
        "with (group), their mean and the deviation of the batch (group_mean), the last scores of the prompt over the "
        "batches (prompt), the batch, or nothing; null is what the objective's paper does, and nothing for those whose "
        "target is exp(beta r).",
    )
    buffer: int = Field(16, ge=1, description="Last scores of each prompt that standardise=prompt remembers.")
    min_count: int = Field(16, ge=1, description="Scores that standardise=prompt needs; until then the batch serves.")
    whiten: bool = Field(False, description="The weighted sum is standardised by the batch too; with group it is GDPO.")


class PromptsConfig(BaseModel, frozen=True, extra="forbid"):
    """What is asked of the policy; where there are `data`, by evaluations alone."""

    train: PromptSource = Field(
        description="Text file, one prompt a line; or *.jsonl, whose lines are strings or objects with a `prompt` and "
        "metadata for the rewards, or a table of the same, *.csv or *.parquet; or shapes:hard, shapes:teachable, "
        "shapes:held_out, and of the second world shapes:second_teachable, shapes:second_held_out."
    )
    held_out: PromptSource | None = Field(
        None, description="Prompts for evaluation alone, from the same kinds of sources; null: none."
    )
    per_iteration: int | None = Field(
        16,
        ge=1,
        description="Groups of samples of an iteration; null is one a prompt. Where there are more than prompts, a "
        "prompt comes again, each time as a group of its own with an initial noise of its own.",
    )
    samples: int = Field(8, ge=1, description="Samples of each prompt in an iteration (the group).")


class DataConfig(BaseModel, frozen=True, extra="forbid"):
    """Pairs of pictures to train on in the place of samples, see docs/datasets.md."""

    path: Annotated[str, AfterValidator(_absolute)] = Field(
        description="A Parquet file with the columns of Pick-a-Pic, or a folder with any number of them."
    )
    split: str | None = Field(
        None,
        description="The files of the folder to read: SPLIT-*.parquet, SPLIT.parquet and those in folders of that "
        "name; null: all.",
    )
    labels: Literal["people", "rewards"] = Field(
        "people",
        description="Who says which picture is the better one: the labels in the files, then the rewards judge "
        "evaluations alone; or the rewards by their weights (AI feedback), then labels are not looked at.",
    )
    ties: Literal["drop", "soft"] = Field(
        "drop", description="What becomes of labels of .5: the pair is dropped, or both pictures get .5 (soft)."
    )
    pairs: int = Field(64, ge=1, description="Rows of an iteration, in the place of prompts.per_iteration.")
    ahead: int = Field(
        2, ge=0, description="Iterations that are read ahead, so that the learner need not wait; 0 reads when asked."
    )
    max_corrupt: float = Field(
        0.05, ge=0, le=1, description="The run stops when more than this share of the rows cannot be read."
    )
    checksum: str | None = Field(
        None,
        description="Of the files' names, lengths and row groups; a run fills it in, and does not go on with others.",
    )


class RoleConfig(BaseModel, frozen=True, extra="forbid"):
    """What each actor of a role asks of a cluster."""

    cpus: float = Field(1, ge=0, description="CPUs that each reserves on a cluster.")
    gpus: float = Field(0, ge=0, description="GPUs that each reserves on a cluster; fractions share one.")
    labels: dict[str, str] = Field({}, description="Labels that its node must have, such as ray.io/accelerator-type.")


class SamplersConfig(RoleConfig, frozen=True, extra="forbid"):
    """The sampler actors and how far ahead they work."""

    count: Count = Field(1, description="How many sampler actors there are.")
    min_count: int | None = Field(
        None, ge=1, description="Start when so many are up; the others join when the cluster has room. null: all."
    )
    request_size: int = Field(8, ge=1, description="Samples of one rollout call, the same wherever it runs.")
    max_staleness: int = Field(0, ge=0, description="Versions a rollout may lag behind; 0 is synchronous.")


class RewardActorsConfig(RoleConfig, frozen=True, extra="forbid"):
    """The reward actors, and what each reserves on a cluster."""

    count: Count = Field(1, description="How many actors there are for each environment of rewards.")
    gradients: Literal["learner", "actors"] = Field(
        "learner",
        description="Where objectives that ask for more than scores get it: from copies of the rewards in the "
        "learner's own process, or from the reward actors (images and gradients then cross the wire).",
    )


class LearnerActorConfig(LearnerConfig, RoleConfig, frozen=True, extra="forbid"):
    """The optimizer, the processes that share its work, and what they reserve."""

    ranks: Count = Field(1, description="Learner processes that share each batch; the result is that of one.")
    rank_timeout: Seconds = Field(
        600, description="Seconds that a rank waits for the others before they count as lost."
    )


class EvaluationConfig(BaseModel, frozen=True, extra="forbid"):
    """Evaluation with fixed prompts and seeds that are never trained on; before, during and after."""

    every: int = Field(10, ge=0, description="Iterations between evaluations; 0 evaluates only before and after.")
    prompts: int | None = Field(
        EVALUATED,
        ge=1,
        description="Prompts of each list at most, so that an evaluation does not grow with the list: drawn once, the "
        "same in every run; null takes all.",
    )
    samples: int = Field(4, ge=2, description="Images of each training prompt.")
    held_out_samples: int = Field(4, ge=2, description="Images of each held-out prompt.")
    features: str | None = Field(
        None, description="Reward whose image features measure diversity within a prompt; null: none."
    )


class CheckpointConfig(BaseModel, frozen=True, extra="forbid"):
    """Checkpoints."""

    every: int = Field(2, ge=1, description="Iterations between checkpoints.")
    keep: int = Field(3, ge=0, description="How many of the newest checkpoints are kept; 0 keeps all.")


class PatienceConfig(BaseModel, frozen=True, extra="forbid"):
    """Seconds after which a phase that has not ended is taken to hang: its actor is killed and its work done again."""

    room: float = Field(
        0,
        ge=0,
        le=1e8,
        description="Seconds until the cluster has room, where it can grow; 0 refuses at once what does not fit.",
    )
    start: Seconds = Field(900, description="Seconds until the actors' models are loaded.")
    sample: Seconds = Field(900, description="Seconds that a rollout of one request may take.")
    score: Seconds = Field(900, description="Seconds that the rewards of one request may take.")
    learn: Seconds = Field(
        3600, description="Seconds that an update, a checkpoint or a publication of weights may take."
    )


class FailureConfig(BaseModel, frozen=True, extra="forbid"):
    """How much may go wrong before the run stops."""

    max_dropped_share: float = Field(
        0.2, ge=0, le=1, description="The run stops when more than this share of an iteration's samples has no reward."
    )
    max_deaths: int = Field(
        20,
        ge=0,
        description="The run ends after more deaths than this of actors of one role between two iterations. "
        "Learner and weight store are one role.",
    )
    patience: PatienceConfig = PatienceConfig()


class Config(BaseModel, frozen=True, extra="forbid"):
    """A run, completely."""

    name: str | None = Field(None, description="Name of the run's folder; null makes one from objective and time.")
    folder: Annotated[str, AfterValidator(_absolute)] = Field(
        "runs", validate_default=True, description="Where runs are kept."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything that is random.")
    iterations: int = Field(100, ge=1, description="Batches to train on; DDPO's epochs.")
    policy: PolicyConfig = PolicyConfig()
    objective: ObjectiveConfig = PPODConfig()
    rewards: dict[str, RewardConfig] = Field(description="What judges the images, by names of one's own or of a kind.")
    combination: CombinationConfig = CombinationConfig()
    reward_actors: RewardActorsConfig = RewardActorsConfig()
    prompts: PromptsConfig
    data: DataConfig | None = Field(None, description="A dataset to train on; null: the policy's own samples.")
    samplers: SamplersConfig = SamplersConfig()
    learner: LearnerActorConfig = LearnerActorConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    guard: GuardConfig | None = Field(
        GuardConfig(), description="What looks at evaluations for a reward that is being exploited; null: nothing."
    )
    failures: FailureConfig = FailureConfig()

    loggers: Annotated[tuple[Literal["wandb", "mlflow"], ...], BeforeValidator(_one_or_more)] = Field(
        (), description="What a run's figures and pictures go to beside TensorBoard's files: wandb, mlflow, or both."
    )

    @property
    def environments(self) -> dict[str | None, tuple[str, ...]]:
        """The names of the judges by the environment that they live in; `None` is the driver's own."""
        found: dict[str | None, tuple[str, ...]] = {}
        for name, reward in self.judges.items():
            environment = reward.environment or self.reward_class(name).environment
            path = str(locate(environment)) if environment else None
            found[path] = (*found.get(path, ()), name)
        return found

    @property
    def makers(self) -> dict[str, Callable[[], Reward]]:
        """What makes each judge, by name, where its packages are."""
        return {name: partial(make_reward, self._kind(name), **r.options) for name, r in self.judges.items()}

    @property
    def judges(self) -> dict[str, RewardConfig]:
        """The rewards that reward actors hold, which are all but people."""
        return {name: reward for name, reward in self.rewards.items() if self._kind(name) != _PEOPLE}

    @property
    def scoring(self) -> tuple[str, ...]:
        """The names of the judges that give pictures scores; the others have image features alone."""
        return tuple(name for name in self.judges if not self.reward_class(name).features_only)

    @property
    def people(self) -> str | None:
        """The name of the reward by which people are asked, if they are."""
        return next((name for name in self.rewards if self._kind(name) == _PEOPLE), None)

    def asks_people(self) -> People:
        """What is asked of people; raises a `ValueError` where the options of that reward will not do."""
        return People(**self.rewards[self.people].options) if self.people else People()

    def reward_class(self, name: str) -> type[Reward]:
        """The class of a reward, by its name in the run."""
        return reward_class(self._kind(name))

    def canaries(self, name: str) -> tuple[Canary, ...]:
        """The pictures that a reward is held to before the run."""
        reward = self.rewards[name]
        own = (Canary(Path(c.picture), c.prompt, c.score, c.tolerance) for c in reward.canaries)
        return (*self.reward_class(name).canaries(**reward.options), *own)

    def _kind(self, name: str) -> str:
        return self.rewards[name].kind or name

    @property
    def standardise(self) -> Standardise:
        """What rewards are standardised by before weighting, with null resolved."""
        asks = self.objective.asks
        # What people say has a scale of its own, which no other batch is to move.
        raw = asks.reward != "scores" or (self.people is not None and asks.standardise == "run")
        return self.combination.standardise or ("nothing" if raw else asks.standardise)

    @property
    def prompts_per_iteration(self) -> int:
        """How many prompts an iteration asks for, or pairs it reads."""
        if self.data is not None:
            return self.data.pairs
        return self.prompts.per_iteration or len(read_prompts(self.prompts.train))

    @property
    def samples_per_prompt(self) -> int:
        """How many samples are compared with one another."""
        return self.prompts.samples if self.data is None else 2

    @property
    def weights(self) -> dict[str, float]:
        """What is learned from, by its share: the rewards that give scores, or the labels of people alone."""
        if self.data is not None and self.data.labels == "people":
            return {LABEL: 1.0}
        weights = {name: reward.weight for name, reward in self.rewards.items()}
        return {name: weight for name, weight in weights.items() if not self.reward_class(name).features_only}

    @property
    def first_step(self) -> int:
        """The step that training rollouts begin with; above 0 where the prompts have start images."""
        if self.data is not None:
            return 0
        return first_step(read_prompts(self.prompts.train)[0], self.policy.steps)

    @property
    def batch_size(self) -> int:
        """Samples of an iteration."""
        return self.prompts_per_iteration * self.samples_per_prompt

    @property
    def pipeline(self) -> str:
        """Where the model is: `policy.model`, with the names of the embedded world's resolved."""
        return str(PIPELINES.get(self.policy.model, self.policy.model))

    def save(self, path: Path) -> None:
        """Write the resolved configuration as YAML that `load_config` reads back."""
        path.write_text(self.dump(), encoding="utf-8")

    def dump(self) -> str:
        """The text that `save` writes."""
        return write(_literal(self.model_dump()))


def _literal(value: Any) -> Any:
    """The same, with `${` in texts written such that it is not resolved when it is read back."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + "\\${", value)
    if isinstance(value, dict):
        return {name: _literal(inner) for name, inner in value.items()}
    return [_literal(inner) for inner in value] if isinstance(value, (list, tuple)) else value
