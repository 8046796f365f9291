"""Our DDPO without Ray: rollout, reward and learner in one process, as in `benchmarks.overhead`."""

from __future__ import annotations

from benchmarks.overhead import PlainLoop
from benchmarks.peers.work import Side, Tally, Work, answer
from cluster.config import load_words


class Ours(Side):
    """See the head of this file."""

    micro_batches = (64, 960)
    warm_up = 2  # the second, too, begins with a check of the ratios

    def __init__(self, work: Work, micro_batch: int, tally: Tally) -> None:
        self._loop = PlainLoop(load_words([*work.words, f"learner.micro_batch={micro_batch}"]))
        tally.watch(self._loop.policy.network)
        self._loop.rewards.score = tally.judged(self._loop.rewards.score)  # type: ignore[method-assign]

    def update(self) -> None:
        self._loop.iterate()


if __name__ == "__main__":
    answer(Ours)
