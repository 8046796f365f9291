"""Pacing: how many more samples may be under way, so that none is staler than allowed and none is thrown away.

With version v, batch B, accepted samples A and running ones R, the room is

    min( max_in_flight - R,  (max_staleness + v + 1) B - (A + R) )

(AReaL, arXiv 2505.24298, section 5.1). The second term is the proof: the last sample admitted belongs to batch
(max_staleness + v + 1) at the latest, so it is trained on at most max_staleness versions later.
"""

from __future__ import annotations


class Pacing:
    """Counts samples under way against the staleness bound.

    Args:
        batch: Samples of an update.
        max_staleness: Versions that a sample may lag behind when it is trained on.
        max_in_flight: Samples under way at once.
        version: Of the weights at the start; a resumed run has accepted exactly `version * batch` samples.
    """

    def __init__(self, batch: int, max_staleness: int, max_in_flight: int, version: int = 0) -> None:
        self._batch, self._max_staleness, self._max_in_flight = batch, max_staleness, max_in_flight
        self.version = version
        self.accepted = version * batch
        self.running = 0

    @property
    def room(self) -> int:
        """How many samples may be submitted now."""
        bound = (self._max_staleness + self.version + 1) * self._batch
        return min(self._max_in_flight - self.running, bound - (self.accepted + self.running))

    def submit(self, samples: int) -> None:
        """Count samples that were sent to a sampler."""
        self.running += samples

    def accept(self, samples: int) -> None:
        """Count samples that came back with their scores."""
        self.running -= samples
        self.accepted += samples
