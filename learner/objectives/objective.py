"""What the learner asks of an algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions
from learner.batch import Batch
from learner.companion import Companion
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.standardise import Standardise
from learner.subsample import noisy_steps


@dataclass(frozen=True)
class Asks:
    """What an objective asks of a run; an attribute of its *config*, so that nobody builds one to read it."""

    # The scores of the samples; or also those of `images` that it makes while it trains, or their `gradients` too. Who
    # asks for more than scores aims at exp(beta r), so r must not be normalised.
    reward: Literal["scores", "images", "gradients"] = "scores"
    standardise: Standardise = "run"  # what scores are standardised by, unless the config says it
    groups: bool = False  # compares samples of one prompt, so there must be at least two
    strict: bool = False  # ties of a dataset teach it nothing
    keeps: int | None = None  # trains on so many samples of a prompt and no more, so there must be more
    ratios: bool = False  # trains on ratios to the policy that drew the samples
    means: bool = False  # and on how far the means of transitions are from that policy's
    older: bool = False  # trains on samples of earlier batches too
    current: bool = False  # takes the policy that a batch finds for the one that drew it, so there may be no older ones
    images: bool = False  # takes the likelihoods of images, by an ODE
    window: tuple[int, float] | None = None  # trains so many steps at a time of this share of those with noise
    first_order: bool = False  # begins the chain again within it, which a solver that looks back cannot
    # Which steps of the chain must have a density; or all, as the posterior of the noising chain; or all, with so much
    # noise that the image does not remember where the chain began. `none` is a chain that adds no noise at all.
    noise: Literal["nowhere", "none", "somewhere", "everywhere", "posterior", "memoryless"] = "somewhere"

    def check(self, name: str, chain: Transitions) -> None:
        """Refuse a chain that cannot be trained on.

        Args:
            name: Of the objective.
            chain: Its transitions.

        Raises:
            ValueError: In one sentence.
        """
        if chain.first_step >= chain.adapted_steps:
            raise ValueError(
                f"Rollouts begin at step {chain.first_step} (counted from 0), but policy.adapted_steps lets the "
                f"adapter act in the first {chain.adapted_steps} alone; set it to more, or to null, which is all."
            )
        residual = f"residual_{name.removeprefix('dag_')}"
        if self.images:
            nothing = torch.zeros(1)
            chain.velocity(nothing, nothing, torch.tensor([len(chain)]))
        if self.first_order and chain.of_previous is not None:
            raise ValueError(
                f"A solver of second order looks back one step, so its chain cannot begin again within, as {name} has "
                "it do; set policy.solver to one of first order, such as ddim, with policy.eta=0 for one without noise."
            )
        if self.noise == "nowhere":
            return
        if self.noise == "none":
            if chain.std.any() or chain.of_previous is not None or chain.first_step:
                raise ValueError(
                    f"The objective {name} controls the probability-flow ODE, from noise alone and in steps of first "
                    "order; set policy.solver=ddim and policy.eta=0, and give the prompts no start images."
                )
            return
        if chain.of_previous is not None:
            raise ValueError(
                f"A solver of second order looks back one step, so its steps have no density in their state, which "
                f"{name} trains on; set policy.solver to one of first order: ddpm (sde_dpm_2m without looking back), "
                "ddim, flow_sde, dance_sde or cps."
            )
        if not chain.stochastic_steps:
            raise ValueError(
                f"No step of the chain adds noise, so none has the density that {name} trains on; set policy.eta above "
                "0 (1 is as stochastic as DDPM) with policy.solver=ddim, and policy.steps to at least 2."
            )
        if not chain.trainable_steps:
            raise ValueError(
                f"Step {chain.stochastic_steps[0]} (counted from 0) is the first that adds noise, but "
                f"policy.adapted_steps lets the adapter act in the first {chain.adapted_steps} alone, so {name} has "
                "nothing to train; set it to more, or to null, which is all."
            )
        if self.noise == "posterior" and chain.adapted_steps < len(chain):
            raise ValueError(
                f"The objective {name} balances every step of the chain against the noising chain, which takes an "
                f"adapter in each; set policy.adapted_steps=null, or objective.name={residual}."
            )
        if self.window is not None:
            size, there = self.window[0], len(noisy_steps(chain.trainable_steps, self.window[1]))
            if size > there:
                raise ValueError(
                    f"objective.window is {size}, but objective.step_fraction leaves {there} of the steps with noise "
                    "to train; set it to at most that, or to null."
                )
        if self.noise != "somewhere" and (
            still := set(range(chain.first_step, len(chain))) - set(chain.stochastic_steps)
        ):
            if still == {len(chain) - 1}:
                begins = float(chain.sigma[-2] / chain.signal[-2])
                raise ValueError(
                    f"The objective {name} needs noise in the last step too, where the reward enters; set "
                    f"policy.final_sigma, to {begins / 2:.1g} for example, and policy.noisy_steps to null."
                )
            raise ValueError(
                f"The objective {name} needs noise in every step, but step {min(still)} of {len(chain)} (counted from "
                "0) adds none; leave policy.noisy_steps out."
            )
        if self.noise == "posterior" and not chain.reverses_noising:
            raise ValueError(
                f"The objective {name} balances the chain against the noising chain, which only DDPM's noise reverses; "
                f"set policy.solver=ddpm, or objective.name={residual}, which takes any noise."
            )
        if self.noise == "memoryless" and not chain.is_memoryless:
            raise ValueError(
                f"The objective {name} learns no start of the chain, so the image may not remember where it began: "
                "that takes all of DDPM's noise (policy.solver=ddpm, or ddim with policy.eta=1, or flow_sde with "
                "policy.eta=1.4142), and prompts without start images."
            )


class Settings(Protocol):
    """What the config classes of objectives have in common."""

    @property
    def asks(self) -> Asks:
        """What it needs of a run."""
        ...

    @property
    def name(self) -> str:
        """The objective's, in a config file."""
        ...


@dataclass(frozen=True)
class Plan:
    """What rollouts are to be like; the learner answers it once it has the chain, and the driver only passes it on."""

    stored_steps: tuple[int, ...]  # sampler steps whose transitions are kept
    share_init_noise: bool = False  # all samples of a prompt start from the same x_T
    clean: bool = False  # the final latents travel too
    acts_with: str = "policy"  # the adapter that is published: the trained one, or one that the objective keeps
    offline_batches: int = 0  # train on this many batches, drawn once from the pretrained model; 0 is online
    # Of the steps that may add noise, the first and the one after the last, see `Request`; `None`: the chain's own.
    noisy_steps: tuple[int, int] | None = None
    candidates: int = 1  # next states drawn at each stored step, see `Request`

    @property
    def trails(self) -> bool:
        """Whether another adapter acts than the one that is trained."""
        return self.acts_with != "policy"


@dataclass(frozen=True)
class Part:
    """The share of a batch that one optimizer step trains on: k of the stored transitions of each of b samples."""

    samples: Tensor  # (b,) int64, rows of the batch
    # (k,) int64, columns of the batch, the same for every sample; or (b, k), each its own. Of the chain's steps, where
    # images are noised again.
    columns: Tensor
    number: int = 0  # which part of the batch it is, where something is drawn


class Objective(ABC):
    """An algorithm: which transitions it needs, how it cuts a batch into optimizer steps, and its gradient.

    Attributes:
        config: Its settings.
        modules: Networks that it trains beside the policy, by name, each with an optimizer; made by `attach`.
        seed: Of the run, for what is drawn before there is a batch; the learner sets it first of all.
    """

    config: Settings
    modules: Mapping[str, Companion] = {}
    seed: int = 0

    @abstractmethod
    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        """What rollouts are to be like.

        Args:
            chain: That `Asks.check` lets pass.
            version: Of the policy that the rollouts will train.
        """

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        """The steps of the chain that it trains, sooner or later: those that are stored, unless it says others."""
        return self.plan(chain).stored_steps

    def kept_latents(self, chain: Transitions, prompts: int, samples: int) -> int:
        """How many latents an update keeps in the host's memory for its pass with a gradient; none, unless it says so.

        Args:
            chain: The steps of the rollouts.
            prompts: Of a batch.
            samples: Of each prompt.
        """
        return 0

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:  # noqa: B027
        """Called once, before anything else: make what depends on the policy, and keep the reward model.

        Args:
            policy: What will be trained.
            reward: The run's weighted reward, for objectives that need it; `None` where none does.
        """

    def begin(self, policy: Policy, batch: Batch, version: int) -> Batch:
        """Called before the update of each batch: moves a reference where there is one, and returns what to train on.

        Args:
            policy: As the batch finds it.
            batch: Has its rewards as `learner.advantages` makes them, and the raw scores for whoever wants others.
            version: Of the policy.
        """
        return batch

    def end(self, policy: Policy, updates: int) -> None:  # noqa: B027
        """Called after the update of each batch, before anything is published: moves what trails behind the policy.

        Args:
            policy: As the batch leaves it.
            updates: Optimizer steps that the batch took.
        """

    @abstractmethod
    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        """Cut a batch into the parts of successive optimizer steps. Asked more than once, so it remembers nothing."""

    def metrics(self) -> dict[str, float]:
        """What is logged of the last batch as a whole, also if it had no parts; the same on every rank."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What it keeps from batch to batch beside its modules, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take up what `state_dict` gave."""

    @abstractmethod
    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        """Add this rank's share of the gradient of one part to the parameters of the policy and of the modules.

        The shares of all ranks sum to the gradient of the part, and every rank must call.

        Args:
            policy: With gradients cleared, as the modules'.
            batch: The whole batch.
            part: What to train on.
            micro_batch: Transitions that go through the network at a time.
            ranks: Who shares the part; `ranks.pieces` are this rank's micro-batches.

        Returns:
            Metrics of the part, the same on every rank; averaged over the parts of a batch before they are logged.
        """


def refuse_unused(config: BaseModel, needs: str, *names: str) -> None:
    """Refuse settings that do nothing: those that are not what they are by default, which a saved config says of all.

    Args:
        config: Of an objective, which its other settings keep from looking at these.
        needs: What it would take.
        names: The settings.

    Raises:
        ValueError: In one sentence.
    """
    for name in names:
        if getattr(config, name) != (default := type(config).model_fields[name].default):
            raise ValueError(f"{name} does nothing without {needs}; leave it out, or at {default}")
