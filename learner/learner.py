"""The central learner: optimizer steps over an objective's parts, the exponential average, save and restore."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from pydantic import BaseModel, Field

from actors.policy import ADAPTER, Policy
from actors.trajectories import Weights
from learner.batch import Batch
from learner.chain_kl import backward_chain_kl, chain_kl_metrics
from learner.companion import Decay
from learner.likelihood import largest_log_ratio, retaken
from learner.objectives import Objective
from learner.objectives.objective import Part
from learner.optimizer import OptimizerName, check_optimizer, make_optimizer
from learner.ranks import Ranks
from learner.reward_gradient import RewardModel
from learner.spending import ImageSource, Judged, Spending

_ON_CPU, _EVERYTHING = 16, 1_000_000  # transitions at a time


class LearnerConfig(BaseModel, frozen=True, extra="forbid"):
    """The optimizer."""

    optimizer: OptimizerName = Field(
        "adamw", description="AdamW, or bitsandbytes' with averages of 8 bits (adamw_8bit), which needs a GPU."
    )
    lr: float = Field(3e-4, gt=0, description="Learning rate of AdamW; 3e-4 is DDPO's for LoRA.")
    lr_schedule: Literal["linear", "cosine", "constant"] = Field(
        "constant",
        description="How the policy's learning rate goes to 0 over the run's iterations; constant, as in DDPO, stays.",
    )
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="Decay of AdamW's averages of gradient and square.")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay of AdamW; 1e-4 is DDPO's.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm; 1 is DDPO's.")
    chain_kl_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of KL(policy || pretrained) of the whole chain, all steps in which the adapter acts, in "
        "nats per dimension, whatever the objective; an objective's own kl_weight sees the steps that it trains.",
    )
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        4,
        description="Transitions that go through the network at a time: memory, not results; 4 is DDPO's. More "
        "than fit are taken in halves; auto begins with all of an update on a GPU, and with 16 on a CPU.",
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="Decay of the averaged adapter, which is evaluated, per optimizer step; 0: none."
    )
    ratio_tolerance: float | None = Field(
        None,
        gt=0,
        description="Largest |log ratio| of a fresh on-policy batch before the first update; null is 1e-5, and 5e-3 "
        "where the base is of half precision.",
    )
    retake_log_probs: bool | None = Field(
        None,
        description="Before the first update of a fresh on-policy batch the learner takes the log-probabilities of "
        "what was sampled again, in the micro-batches of the updates, so that ratios begin at 1 however samplers "
        "round; null is where the base is of half precision.",
    )

    def at_a_time(self, device: torch.device) -> int:
        """The transitions that go through a network on a device at a time, if they fit."""
        if self.micro_batch != "auto":
            return self.micro_batch
        return _ON_CPU if device.type == "cpu" else _EVERYTHING


@dataclass(frozen=True)
class Update:
    """What one batch did to the policy."""

    version: int  # of the weights after the update
    metrics: dict[str, float]
    started: float  # seconds since the epoch
    seconds: float


class RatioError(RuntimeError):
    """The learner and the samplers disagree on the probability of what was sampled."""


class Learner:
    """Applies an objective to batches.

    Args:
        config: The optimizer.
        policy: What is trained.
        objective: How.
        seed: Of the run; the order of timesteps and prompts is drawn from it and the version.
        reward: The run's weighted reward, for objectives that ask for more of it than the samples' scores.
        iterations: The run's batches, over which the learning rate falls; `None`: as many as come, at one rate.
        source: Of the batches' images, see `Spending`.

    Attributes:
        version: Number of batches applied so far; names the weights.
        ranks: The learners that share each batch. Each is given the same batches and comes to the same weights.
    """

    def __init__(
        self,
        config: LearnerConfig,
        policy: Policy,
        objective: Objective,
        seed: int = 0,
        reward: RewardModel | None = None,
        iterations: int | None = None,
        source: ImageSource = "drawn",
    ) -> None:
        self.version = 0
        self.ranks = Ranks()
        self._micro_batch = config.at_a_time(policy.device)
        self._config, self._policy, self._objective, self._seed = config, policy, objective, seed
        objective.config.asks.check(objective.config.name, policy.transitions)
        judged = None if reward is None else Judged(reward)
        objective.seed = seed
        objective.attach(policy, judged)
        plan = objective.plan(policy.transitions)
        self._acts_with, self._spending = plan.acts_with, Spending(policy, judged, plan.offline_batches, source)
        if self._acts_with != ADAPTER:  # published before anything is learned
            policy.snapshot(self._acts_with)
        self._parameters = policy.parameters
        check_optimizer(config.optimizer, policy.device)
        self.optimizer = make_optimizer(
            config.optimizer, self._parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        self._schedule = get_scheduler(
            config.lr_schedule if iterations else "constant",
            self.optimizer,
            num_warmup_steps=0,
            num_training_steps=iterations,
        )
        self._average = EMAModel(self._parameters, decay=config.ema_decay) if config.ema_decay else None
        self._ratio_checked, self._source = False, source

    @property
    def _everything(self) -> list[torch.nn.Parameter]:
        return [*self._parameters, *(p for made in self._objective.modules.values() for p in made.network.parameters())]

    def step(self, batch: Batch) -> Update:
        """Apply every part of a batch: one optimizer step each.

        Raises:
            RatioError: If this is the first on-policy batch of this process and the ratios are not one.
            MemoryError: If not even a single transition fits into memory.
            RankLost: If another learner rank is gone.
            RanksDiffer: If the ranks came to different weights.
            FloatingPointError: If a gradient is not finite. It is not applied, but the batch's earlier parts have been:
                continue from a checkpoint.
        """
        started = time.time()
        self._spending.draw(batch, self.version)
        history: dict[str, list[float]] = defaultdict(list)
        of_chain = chain_kl_metrics(batch, self._objective.trained_steps(self._policy.transitions))
        older = self._objective.config.asks.older
        if self._source == "chosen":  # what nobody has chosen between makes no update, not even one without a gradient
            batch = batch.take(torch.nonzero(batch.rewards.isfinite()).flatten())
        with self._in_memory():
            self._check_ratio(batch)  # as it was drawn: an objective may add older samples to it
            if older:  # while there is the policy that drew them
                batch = self._retaken(batch, history)
        batch = self._objective.begin(self._policy, batch, self.version)
        with self._in_memory():
            if not older:
                batch = self._retaken(batch, history)
        for number, part in enumerate(self._parts(batch)):
            self.optimizer.zero_grad(set_to_none=True)
            for module in self._objective.modules.values():
                module.optimizer.zero_grad(set_to_none=True)
            with self._in_memory():
                metrics = self._objective.backward(self._policy, batch, part, self._micro_batch, self.ranks)
                if weight := self._config.chain_kl_weight:
                    backward_chain_kl(
                        self._policy, batch, part.samples, weight, micro_batch=self._micro_batch, ranks=self.ranks
                    )
            self.ranks.sum_gradients(self._everything)
            if number == 0 and "ratio/max_log" in metrics:
                history["ratio/first"].append(metrics["ratio/max_log"])
            norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)
            if not torch.isfinite(norm):
                raise FloatingPointError(
                    f"The gradient of update {number} in iteration {self.version} is {float(norm)}; lower learner.lr "
                    "or objective.beta, or look for a reward that overflows."
                )
            for name, module in self._objective.modules.items():
                if any(parameter.grad is not None for parameter in module.network.parameters()):
                    metrics[f"grad_norm/{name}"] = module.step(name)
            self.optimizer.step()
            if self._average is not None:
                self._average.step(self._parameters)
            for name, value in {**metrics, "grad_norm": float(norm)}.items():
                history[name].append(value)
        self.version += 1
        self._objective.end(self._policy, len(history.get("grad_norm", ())))
        self.ranks.check_equal(self.version, self._everything)
        metrics = {name: float(np.mean(values)) for name, values in history.items()}
        metrics |= of_chain | self._objective.metrics() | self._spending.total(self.ranks)
        metrics["updates"] = float(len(history["grad_norm"]))
        if self._config.micro_batch == "auto" or self.ranks.fitting is not None:
            metrics["micro_batch"] = float(min(self._micro_batch, self.ranks.fitting or _EVERYTHING))
        metrics["lr"] = self.optimizer.param_groups[0]["lr"]
        if not metrics["updates"]:  # a step without gradients changes nothing; torch warns where none came before
            self.optimizer.zero_grad(set_to_none=True)
            self.optimizer.step()
        self._schedule.step()
        return Update(self.version, metrics, started, time.time() - started)

    def _parts(self, batch: Batch) -> Iterator[Part]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self.version)
        return self._objective.parts(batch, generator) if batch.prompts else iter(())

    def _is_fresh(self, batch: Batch) -> bool:
        """Whether the policy as it is sampled the batch, and there is a transition in it."""
        return batch.version == self.version and bool(batch.prompts) and bool(len(batch.steps))

    def _retaken(self, batch: Batch, history: dict[str, list[float]]) -> Batch:
        """The batch with its log-probabilities taken again, where that is wanted and can be."""
        asks, wanted = self._objective.config.asks, self._config.retake_log_probs
        wanted = self._policy.half_precision if wanted is None else wanted
        if not (wanted and asks.ratios and self._is_fresh(batch)):
            return batch
        parts, at_a_time = [(part.samples, part.columns) for part in self._parts(batch)], self._micro_batch
        if asks.older:  # what later updates will draw is not known: all, and as many together as in the first of these
            at_a_time = min(at_a_time, -(-len(parts[0][0]) // self.ranks.count))
            parts = [(torch.arange(len(batch.prompts)), torch.arange(len(batch.steps)))]
        batch, spread = retaken(self._policy, batch, parts, at_a_time, self.ranks, means=asks.means)
        history["ratio/spread"].append(spread)
        return batch

    @contextmanager
    def _in_memory(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"A single transition does not fit into the learner's memory on {self._policy.device}; set "
                "policy.checkpointing=true, policy.encoders=cpu or policy.dtype=bfloat16, or give it a larger GPU "
                f"({str(error).splitlines()[0]})."
            ) from error

    def weights(self, which: Literal["acting", "trained", "averaged"] = "acting") -> Weights:
        """The adapter that acts, which is what is published; the trained one; or, where it is kept, its average."""
        if which == "averaged" and self._average is not None:
            with self._averaged():
                return Weights.pack(self.version, *self._policy.weights())
        return Weights.pack(self.version, *self._policy.weights(self._acts_with if which == "acting" else ADAPTER))

    def save(self, folder: Path, extra: dict[str, Any] | None = None) -> None:
        """Write all that a bit-identical continuation needs, and the adapter in diffusers' format.

        Args:
            folder: An empty folder.
            extra: Plain values of the caller's own, given back by `restore`.
        """
        self._policy.save_lora(folder)
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "modules": {name: module.state_dict() for name, module in self._objective.modules.items()},
            "objective": self._objective.state_dict(),
            "snapshots": {name: torch.from_numpy(self._policy.weights(name)[0]) for name in self._policy.snapshots},
        }
        if self._average is not None:
            state["average"] = self._average.state_dict()
            with self._averaged():
                self._policy.save_lora(folder / "average")
        torch.save(state, folder / "learner.pt")
        kept = {"version": self.version, "spent": self._spending.spent, "extra": extra or {}}
        (folder / "state.json").write_text(json.dumps(kept) + "\n")

    def restore(self, folder: Path) -> dict[str, Any]:
        """Continue from what `save` wrote; returns its `extra`."""
        self._policy.load_lora(folder)
        state = torch.load(folder / "learner.pt", map_location=self._policy.device, weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        # As the schedule of *this* run has it: one that was extended falls to another end than the one that was saved.
        for group, lr in zip(self.optimizer.param_groups, self._schedule.base_lrs, strict=True):
            group["lr"] = lr * self._schedule.lr_lambdas[0](self._schedule.last_epoch)
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        for name, module in self._objective.modules.items():
            module.load_state_dict(state["modules"][name])
        self._objective.load_state_dict(state["objective"])
        for name, flat in state["snapshots"].items():
            self._policy.snapshot(name)
            self._policy.load_weights(flat.cpu().numpy(), self._policy.weights()[1], name)
        saved = json.loads((folder / "state.json").read_text())
        self.version = saved["version"]
        self._spending.spent |= saved["spent"]
        return saved["extra"]

    def _averaged(self) -> _Averaged:
        assert self._average is not None
        return _Averaged(self._average, self._parameters)

    def _check_ratio(self, batch: Batch) -> None:
        """Refuse an on-policy batch whose ratios are not one, on a few rows and before anything is learned from it.

        The first batch of a run, and the first that samplers drew with weights that were published to them.

        Raises:
            RatioError: If they are not.
        """
        if self._ratio_checked or not self._is_fresh(batch):
            return
        allowed = self._config.ratio_tolerance or (5e-3 if self._policy.half_precision else 1e-5)
        trailing = self._acts_with != ADAPTER
        with self._spending.paused(), self._policy.using(self._acts_with) if trailing else nullcontext():
            largest = largest_log_ratio(self._policy, batch, self._micro_batch, ranks=self.ranks)
        if not largest <= allowed:
            raise RatioError(
                f"Before update {self.version + 1} the learner's log-probabilities differ from the sampler's by "
                f"{largest:.1e} (at most {allowed:.0e} is allowed), so every likelihood ratio would be wrong. "
                "Usual causes: samplers and learner on different devices or library versions, a half-precision base "
                "(raise learner.ratio_tolerance knowingly), or weights that did not arrive."
            )
        self._ratio_checked = batch.version > 0  # where the adapter is not the fresh one, which changes nothing


class _Averaged:
    """Puts the average into the parameters for the length of a block."""

    def __init__(self, average: EMAModel, parameters: list[torch.nn.Parameter]) -> None:
        self._average, self._parameters = average, parameters

    def __enter__(self) -> None:
        self._average.store(self._parameters)
        self._average.copy_to(self._parameters)

    def __exit__(self, *_: object) -> None:
        self._average.restore(self._parameters)
