"""How much better a trained policy denoises the picture that people chose: its implicit reward, on pairs.

A picture's implicit reward is how much better the trained policy denoises it than the pretrained model
(`learner/objectives/diffusion_dpo.py`), averaged over timesteps that are evenly spaced; both pictures of a pair get the
same noise. Of a pair whose implicit rewards are equal half counts; ties of people and rows that cannot be read do not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from actors.encoding import encode
from actors.policy import Policy
from actors.training_chain import training_chain
from cluster.sources.pairs import Rows
from learner.batch import Batch, collate
from learner.forward_process import noised, output_error
from rewards.people.pick_a_pic import LABEL, read_index

_AT_A_TIME = 32  # pictures


@torch.no_grad()
def implicit_rewards(policy: Policy, batch: Batch, states: int) -> Tensor:
    """Of each picture at each state, `(B, states)`: half of what the adapter takes off the mean square error.

    Args:
        policy: With the trained adapter.
        batch: With the pictures' latents.
        states: How many of the training timesteps, at the middles of as many equal parts of those with an adapter.
    """
    chain = training_chain(policy.config, policy.transitions)
    steps = ((torch.arange(states) + 0.5) / states * chain.adapted_steps).long()
    found = torch.zeros(len(batch.prompts), states)
    with policy.along(chain):
        for rows in tqdm(torch.arange(len(batch.prompts)).split(_AT_A_TIME), unit="batch", disable=None):
            for column, step in enumerate(steps):
                at = step.expand(len(rows))
                state = noised(policy, batch, rows, at, per_group=True)
                before, new = (
                    output_error(chain, image, state.clean, at)
                    for image in (state.image_of(None, policy, False), state.image(policy, False))
                )
                found[rows, column] = ((before - new) / 2).cpu()
    return found


def read_pairs(policy: Policy, dataset: Path, split: str | None, most: int) -> Batch:
    """The first pairs of a dataset that people told apart, as a batch whose rewards are the labels.

    Args:
        policy: Whose autoencoder encodes them.
        dataset: A Parquet file, or a folder of them.
        split: See `read_index`.
        most: Rows that are read.

    Raises:
        ValueError: If there is no such dataset.
    """
    index, left, drawn, labels = read_index(dataset, split), most, [], []
    for number, ((file, group), size) in enumerate(zip(index.groups, index.sizes, strict=True)):
        rows = tuple(range(min(size, left)))
        left -= len(rows)
        read = Rows(0, number, 0, ((index.files[file], group, rows),), by_people=True, drop_ties=True)
        request, said = read(lambda prompts: [True] * len(prompts))
        drawn.append(encode(policy, request)[1])
        labels.append(said["scores"][LABEL])
        if not left:
            break
    batch = collate(drawn, np.concatenate(labels))
    if not len(batch.prompts):
        raise ValueError(f"None of the first {most} rows of {dataset} are pairs that people told apart.")
    return batch


def accuracy(rewards: Tensor, labels: Tensor) -> float:
    """Share of the pairs `(2 n,)`, neighbours each, that are told apart as labelled; equal ones count half."""
    margin = (rewards[::2] - rewards[1::2]) * (labels[::2] - labels[1::2]).sign()
    return float(((margin > 0).double() + 0.5 * (margin == 0)).mean())
