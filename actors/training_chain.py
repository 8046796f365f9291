"""The states that a model was trained at, all of them, as a chain that nobody samples: losses noise images to these.

A network of noise or v knows a table of timesteps, mostly 1,000. A network of velocities has a continuous time; here it
is cut as finely as its scheduler's `num_train_timesteps` says, into levels that are shifted as a sampler's are.
"""

from __future__ import annotations

from dataclasses import replace

from actors.config import PolicyConfig
from actors.model_check import find_family
from actors.model_files import fetch, read_json
from actors.transitions import Transitions, make_transitions


def training_chain(config: PolicyConfig, sampled: Transitions) -> Transitions:
    """The chain through all training timesteps of a policy's model, from noise to the image.

    An adapter acts in its steps as in those of the chain that is sampled: where the state has more noise than the one
    at which `policy.adapted_steps` ends.

    Args:
        config: Of the policy.
        sampled: The policy's own chain.

    Raises:
        ValueError: If the model's scheduler gives no such chain.
    """
    folder = fetch(config.model, config.variant)
    total = read_json(folder / "scheduler" / "scheduler_config.json").get("num_train_timesteps", 1000)
    every = config.model_copy(update={"steps": total})
    chain = make_transitions(find_family(folder).noise_levels(folder, every), eta=0.0)
    if sampled.adapted_steps == len(sampled):
        return chain
    noise, least = chain.sigma / chain.signal, (sampled.sigma / sampled.signal)[sampled.adapted_steps]
    return replace(chain, adapted=int((noise[:-1] > least).sum()))
