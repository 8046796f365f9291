"""What is drawn: requests of one model, with its adapter or without, under a key of all that decides the pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from actors.config import PolicyConfig
from actors.trajectories import EVALUATION, Request
from cluster.prompts import make_requests
from cluster.trained import Trained

# Noise of its own, beside an evaluation's lists of prompts and what benchmarks draw.
CROSSED = EVALUATION + 4
# Of a policy's settings: what its adapter is like, which the checksum of that says, and what changes no picture.
_OF_ADAPTER = ("train", "init_weights", "init_lora", "lora_rank", "lora_alpha", "lora_targets")
_IDLE = ("checkpointing",)


@dataclass(frozen=True)
class Draw:
    """Requests and who answers them.

    Args:
        model: With an adapter, if that is to act.
        requests: In order.
    """

    model: Trained
    requests: tuple[Request, ...]

    @property
    def crossed(self) -> bool:
        """Whether it is of a crossed design, of which scores alone are asked for."""
        return self.requests[0].iteration == CROSSED

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits, equal where the pictures are."""
        settings = self.model.policy.model_dump(mode="json", exclude={*_OF_ADAPTER, *_IDLE})
        said = {"policy": settings, "adapter": self.model.checksum, "requests": [_said(r) for r in self.requests]}
        return digest(said)


def digest(said: Any) -> str:
    """Sixteen hexadecimal digits of what JSON can say."""
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _said(request: Request) -> Any:
    metadata = [{**getattr(prompt, "metadata", {}), "image": None} for prompt in request.prompts]
    starts = [hashlib.sha256(image.tobytes()).hexdigest() for image in request.start or ()]
    where = [str(EVALUATION - request.iteration), request.first_step, request.share_init_noise]
    keys = [request.seed, request.prompt_index, request.sample_index]
    return [list(map(str, request.prompts)), metadata, starts, where, keys]


def without_adapter(model: Trained) -> Trained:
    """The base model of one, drawing with the same settings."""
    policy = model.policy
    bare: dict[str, Any] = {**dict.fromkeys(_OF_ADAPTER), "train": "lora", "adapted_steps": None}
    if policy.train == "full":
        bare["dtype"] = "float32"  # which its networks were in
    return Trained("base", PolicyConfig.model_validate({**policy.model_dump(), **bare}), None, model.run)


def plain_requests(prompts: Sequence[str], samples: int, size: int, seed: int, steps: int) -> tuple[Request, ...]:
    """So many samples of each prompt, keyed as an evaluation's of its training prompts are."""
    asked = make_requests(tuple(prompts), samples, size, seed=seed, iteration=EVALUATION, most=None, steps=steps)
    return tuple(asked)


def crossed_requests(prompts: Sequence[str], noises: int, chains: int, size: int, seed: int) -> tuple[Request, ...]:
    """Every prompt from every one of some initial noises, each several times with other noise in the chain.

    The noise of a chain is keyed by prompt and sample number, x_T by the prompt number alone where it is shared. So the
    number of the x_T stands for the prompt's, and row (p, s, r) has the prompt number s and the sample number p R + r.

    Returns:
        Requests whose rows, one after the other, are those of `(P, S, R)`.
    """
    rows = [(p, s, p * chains + r) for p in range(len(prompts)) for s in range(noises) for r in range(chains)]
    requests = []
    for start in range(0, len(rows), size):
        asked, of_noise, of_chain = zip(*rows[start : start + size], strict=True)
        texts = tuple(prompts[p] for p in asked)
        requests.append(Request(seed, CROSSED, texts, of_noise, of_chain, share_init_noise=True))
    return tuple(requests)
