"""What each role needs of memory, estimated before anything starts, and whether there is as much.

Networks are counted by the headers of their weights. What a pass through them needs is found by going through it on
the meta device (`actors.footprint`): a sampler predicts and decodes a request, the learner goes forward and back
through a micro-batch, and where an objective takes the reward's gradient also through the decoder. Not counted are the
workspaces of single operations, and what a GPU's driver keeps for itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from actors import footprint
from actors.config import PolicyConfig
from actors.devices import parse_device, pick_device
from actors.model_files import count_parameters, on_disk
from actors.policy import Policy
from actors.quantising import BYTES
from cluster.config import Config
from learner.objectives.objective import Objective
from learner.optimizer import AVERAGES

log = logging.getLogger(__name__)
Role = Literal["sampler", "learner", "reward"]
_PROCESS = 600e6  # bytes of a process that has imported torch, diffusers and Ray
# What is there as long as the actor is.
_FIXED = ("networks", "text encoders", "adapter", "adapters and optimizer", "rewards", "process")


@dataclass(frozen=True)
class Need:
    """Bytes that each actor of a role needs, by what they are for."""

    role: Role
    who: str
    count: int  # how many there are
    device: Mapping[str, float]  # of a GPU's memory; empty where the networks are on the CPU
    host: Mapping[str, float]  # of the machine's memory
    advice: str  # what would need less

    def line(self) -> str:
        """In words."""
        on_gpu = f"{_words(self.device)} of its GPU and " if self.device else ""
        return f"memory: {self.who} needs about {on_gpu}{_words(self.host)} of its machine"

    @staticmethod
    def kept(parts: Mapping[str, float]) -> float:
        """Bytes that no setting of the passes changes."""
        return sum(parts.get(name, 0) for name in _FIXED)


def estimate(config: Config, on_gpu: bool) -> list[Need]:
    """What each role needs; nothing, and a warning, of a model still on the hub, or that does not run without numbers.

    Args:
        config: Of a run that may start.
        on_gpu: Whether actors find a GPU where `policy.device` is auto.
    """
    folder = on_disk(config.pipeline, config.policy.variant)
    if folder is None:
        log.warning(
            "What the run needs of memory is not known: its actors fetch %s, and this machine has no whole copy; to "
            "have one run `hf download %s`.",
            *(config.pipeline, config.pipeline),
        )
        return []
    device = parse_device(config.policy.device) or torch.device("cuda" if on_gpu else "cpu")
    try:
        sampler, learner = _of_policy(config, folder, config.policy.dtype_on(device))
    except Exception as error:  # whatever a network of one's own does where there are no numbers
        log.warning("What the run needs of memory is not known: %s.", " ".join(str(error).split())[:200].rstrip("."))
        return []
    ranks, actors = config.learner.ranks, config.reward_actors.count
    learners = "the learner" if ranks == 1 else "a learner rank"
    needs = [
        _need("sampler", "a sampler", config.samplers.count, sampler, device, _advice(config, "sampler", device)),
        _need("learner", learners, ranks, learner, device, _advice(config, "learner", device)),
    ]
    for names in config.environments.values():
        held = {"rewards": _reward_bytes(config, names)}
        needs.append(_need("reward", f"an actor of {', '.join(names)}", actors, held, device, []))
    return needs


def estimate_drawing(settings: PolicyConfig, folder: Path, pictures: int) -> Need | None:
    """What this process needs if it draws so many pictures at a time; `None` where that cannot be known.

    Args:
        settings: Of the policy.
        folder: Where its model is.
        pictures: Of one pass.
    """
    device = pick_device(settings.device)
    try:
        held = _Held.of(settings, folder, settings.dtype_on(device))
        found = held.sampler(pictures)
    except Exception as error:  # as above
        log.warning("What drawing needs of memory is not known: %s.", " ".join(str(error).split())[:200].rstrip("."))
        return None
    slicing = ["policy.vae_slicing=true"] * (not settings.vae_slicing)
    advice = [*slicing, *["a smaller --batch"] * (pictures > 1), *_thrift(settings, device)]
    return _need("sampler", "this process", 1, found, device, advice)


@dataclass(frozen=True)
class _Held:
    """A model on the meta device, and the bytes of its parts where they are loaded."""

    policy: Policy
    denoiser: float
    vae: float
    adapter: float
    texts: Mapping[str, float]  # of encoders; on the host the name begins with "host "

    @classmethod
    def of(cls, settings: PolicyConfig, folder: Path, dtype: torch.dtype) -> _Held:
        counts, half = count_parameters(folder, settings.variant), dtype == torch.float16
        policy = Policy.outline(settings, folder, dtype)
        adapter = sum(4 * parameter.numel() for parameter in policy.parameters)
        vae = counts.get("vae", 0) * (4 if half else dtype.itemsize)
        encoders = sum(n for name, n in counts.items() if name.startswith("text_encoder")) * dtype.itemsize
        where = "host text encoders" if settings.encoders == "cpu" else "text encoders"
        with policy.using(None):  # where all weights are trained, these are others
            denoiser: float = footprint.size(policy.network, without=policy.parameters)
        if settings.quantise is not None:
            denoiser -= (dtype.itemsize - BYTES[settings.quantise]) * _in_linear_layers(policy.network)
        return cls(policy, denoiser, vae, adapter, {where: encoders})

    def sampler(self, pictures: int) -> dict[str, float]:
        return {
            "networks": self.denoiser + self.vae,
            **self.texts,
            "adapter": self.adapter,
            "host adapter": self.adapter,  # as it was published
            f"{pictures} pictures": sampling_bytes(self.policy, pictures),
        }


def _of_policy(config: Config, folder: Path, dtype: torch.dtype) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes of a sampler and of a learner where their networks are; of each, those on the host begin with "host "."""
    held = _Held.of(config.policy.model_copy(update={"model": config.pipeline}), folder, dtype)
    policy, sampler = held.policy, held.sampler(config.samplers.request_size)
    asks = config.objective.asks
    at_a_time = 1 if config.learner.micro_batch == "auto" else config.learner.micro_batch
    objective: Objective = config.objective.build()
    nobody: Any = object()  # a reward that is asked nothing
    with torch.device("meta"):
        objective.attach(policy, nobody)
    companions = sum(footprint.size(module.network) for module in objective.modules.values())
    # Itself, a reference, on its way, and the gradients of the micro-batches before; those of this one are the pass's.
    copies = 4 + AVERAGES[config.learner.optimizer] + bool(config.learner.ema_decay)
    of_companion = 3 + AVERAGES["adamw"]  # itself, and its gradients of this micro-batch and of those before
    learner: dict[str, float] = {
        "networks": held.denoiser + (held.vae if asks.reward != "scores" else 0),
        **held.texts,
        "adapters and optimizer": copies * held.adapter + of_companion * companions,
        f"{at_a_time} transitions": learning_bytes(policy, at_a_time, asks.reward),
        "host batch": _batch_bytes(config, policy, objective),
    }
    if asks.reward == "scores":
        learner["host networks"] = held.vae  # which is loaded and not moved
    elif config.reward_actors.gradients == "learner":
        learner["rewards"] = sum(_reward_bytes(config, names) for names in config.environments.values())
    return sampler, learner


def _in_linear_layers(network: nn.Module) -> int:
    """How many frozen weights those have."""
    layers = (m for name, m in network.named_modules() if isinstance(m, nn.Linear) and ".lora_" not in name)
    return sum(layer.weight.numel() for layer in layers)


def sampling_bytes(policy: Policy, pictures: int) -> int:
    """Of a sampler's widest pass, by a policy on the meta device."""
    x, step = _states(policy, pictures), torch.zeros(pictures, dtype=torch.int64)
    with torch.no_grad():
        conditioning = policy.conditions(pictures)
        passes = (lambda: policy.predict(x, step, conditioning), lambda: policy.decode(x))
        return max(map(footprint.peak, passes))


def learning_bytes(policy: Policy, transitions: int, reward: str) -> int:
    """Of an update's micro-batch, by a policy on the meta device; `reward` as in `Asks`."""
    x, step = _states(policy, transitions), torch.zeros(transitions, dtype=torch.int64)
    conditioning = policy.conditions(transitions)

    def update() -> None:
        prediction = policy.predict(x, step, conditioning)
        loss = prediction.sum()
        if reward == "images":
            with torch.no_grad():
                policy.decode(policy.transitions.clean(x, prediction, step))
        elif reward == "gradients":
            # What the widest of them (nabla-DB) does: of the next state, and of this one with its graph kept.
            state = x.clone().requires_grad_()
            images = policy.decode(policy.clean(state, step + 1, conditioning))
            torch.autograd.backward(images.sum(), inputs=[state])
            del images
            loss = loss + policy.decode(policy.transitions.clean(x, prediction, step)).sum()
        torch.autograd.backward(loss)

    found = footprint.peak(update)
    for parameter in policy.parameters:
        parameter.grad = None
    return found


def _states(policy: Policy, samples: int) -> Tensor:
    return torch.empty(samples, *policy.latent_shape, device=policy.device)


def _batch_bytes(config: Config, policy: Policy, objective: Objective) -> float:
    """The batch's states and what an update keeps beside them, float32.

    A state is either end of a stored transition, the one that the KL is taken at, or the last. Of what is kept a rank
    fills what belongs to its own micro-batches.
    """
    plan = objective.plan(policy.transitions)
    states = 2 if plan.candidates == 1 else 2 + plan.candidates
    of_batch = config.batch_size * (states * len(plan.stored_steps) + 1 + plan.clean)
    kept = objective.kept_latents(policy.transitions, config.prompts_per_iteration, config.samples_per_prompt)
    return 4.0 * (of_batch + kept / config.learner.ranks) * math.prod(policy.latent_shape)


def _reward_bytes(config: Config, names: Sequence[str]) -> float:
    return sum(4.0 * config.reward_class(name).parameters for name in names)


def _advice(config: Config, role: Role, device: torch.device) -> list[str]:
    """Settings that would need less, and are not set."""
    settings, advice = config.policy, []
    if role == "learner":
        advice += ["policy.checkpointing=true"] * (not settings.checkpointing)
        advice += ["a smaller learner.micro_batch"] * (config.learner.micro_batch not in (1, "auto"))
    if role == "sampler":
        advice += ["policy.vae_slicing=true"] * (not settings.vae_slicing) + ["a smaller samplers.request_size"]
    return advice + (_thrift(settings, device) if role != "reward" else [])


def _thrift(settings: PolicyConfig, device: torch.device) -> list[str]:
    encoders = ["policy.encoders=cpu"] * (device.type != "cpu" and settings.encoders == "device")
    return encoders + ["policy.dtype=bfloat16"] * (settings.dtype == "float32")


def _need(
    role: Role, who: str, count: int, found: Mapping[str, float], device: torch.device, advice: Sequence[str]
) -> Need:
    on_host = {name.removeprefix("host "): b for name, b in found.items() if name.startswith("host ")}
    on_device = {name: bytes_ for name, bytes_ in found.items() if not name.startswith("host ")}
    host = {"process": _PROCESS, **on_host}
    if device.type == "cpu":
        host |= {name: bytes_ + host.get(name, 0) for name, bytes_ in on_device.items()}
        on_device = {}
    return Need(role, who, count, on_device, host, f"set {', '.join(advice)}" if advice else "")


def _words(parts: Mapping[str, float]) -> str:
    total = sum(parts.values())
    named = ", ".join(f"{name} {bytes_ / 1e9:.2g}" for name, bytes_ in parts.items() if bytes_ > total / 50)
    return f"{gigabytes(total)} ({named})"


def gigabytes(bytes_: float) -> str:
    """In words."""
    return f"{bytes_ / 1e9:.2g} GB"
