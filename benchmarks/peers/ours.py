"""Our DDPO without Ray: rollout, reward and learner in one process, as in `benchmarks.overhead`."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.peers.work import Side, Tally, Work, answer
from benchmarks.plain import PlainRun
from cluster.config import load_words

_ITERATIONS = 1000  # more than anyone measures


class Ours(Side):
    """See the head of this file; unlike a run's samplers it does not watch the KL to the pretrained model.

    Attributes:
        policy: What is trained.
    """

    micro_batches = (32, 96)
    warm_up = 2  # the second, too, begins with a check of the ratios

    def __init__(self, work: Work, micro_batch: int, tally: Tally) -> None:
        more = f"learner.micro_batch={micro_batch}", f"iterations={_ITERATIONS}"
        self._run, self._iteration = PlainRun(load_words([*work.words, *more])), 0
        self.policy = self._run.policy
        tally.watch(self.policy.network)
        self._run.rewards.score = tally.judged(self._run.rewards.score)  # type: ignore[method-assign]

    def update(self) -> None:
        requests = [replace(request, kl=False) for request in self._run.requests(self._iteration)]
        self._run.learner.step(self._run.collate([self._run.draw(request) for request in requests]))
        self._iteration += 1


if __name__ == "__main__":
    answer(Ours)
