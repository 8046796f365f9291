"""Our Diffusion-DPO without Ray, on given pairs: pictures are encoded and learned from in one process."""

from __future__ import annotations

import numpy as np

from actors.encoding import encode
from actors.policy import Policy
from actors.trajectories import Request
from benchmarks.peers.pictures import pairs
from benchmarks.peers.work import Side, Tally, Work, answer
from cluster.config import load_words
from learner.batch import collate
from learner.learner import Learner
from learner.objectives.diffusion_dpo import DiffusionDPOConfig


class OursDpo(Side):
    """See the head of this file; `micro_batch` counts pairs."""

    micro_batches = (32, 64)

    def __init__(self, work: Work, micro_batch: int, tally: Tally) -> None:
        config = load_words([*work.words, f"learner.micro_batch={2 * micro_batch}"])
        objective = DiffusionDPOConfig(beta=work.beta, prompt_dropout=0.0).build()
        self._policy = Policy.load(config.policy.model_copy(update={"model": config.pipeline}), config.seed)
        self._learner = Learner(config.learner, self._policy, objective, config.seed)
        count, size = len(work.prompts), self._policy.picture_size[0]
        self._request = Request(
            config.seed,
            0,
            (*work.prompts, *work.prompts),
            (*range(count), *range(count)),
            (0,) * count + (1,) * count,
            start=[*pairs(work.prompts, work.seed, size).reshape(-1, size, size, 3)],
        )
        self._rewards = np.repeat(np.array([1, 0], np.float32), count)
        tally.watch(self._policy.network)

    def update(self) -> None:
        _, given = encode(self._policy, self._request, self._learner.version)
        self._learner.step(collate([given], self._rewards))


if __name__ == "__main__":
    answer(OursDpo)
