"""What ran when: spans of work by role, measured where the work was done, and how much of it overlapped.

Times are seconds since the epoch by the clocks of the machines that worked; where the clocks of two nodes differ, spans
are shifted by as much.
"""

from __future__ import annotations

from collections import defaultdict, deque

_KEPT = 4096  # spans of each role; older ones concern iterations that have been reported


class Spans:
    """Remembers when each role worked."""

    def __init__(self) -> None:
        self._spans: dict[str, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=_KEPT))

    def add(self, role: str, started: float, seconds: float) -> None:
        """Note a piece of work."""
        self._spans[role].append((started, started + seconds))

    def last(self, role: str) -> tuple[float, float] | None:
        """Start and end of the role's last piece of work."""
        return self._spans[role][-1] if self._spans[role] else None

    def busy(self, role: str, since: float, until: float) -> float:
        """Seconds of a window in which at least one of the role was at work."""
        return sum(end - start for start, end in self._union(role, since, until))

    def overlap(self, one: str, other: str, since: float, until: float) -> float:
        """Seconds of a window in which both roles were at work."""
        return sum(
            max(0.0, min(a_end, b_end) - max(a_start, b_start))
            for a_start, a_end in self._union(one, since, until)
            for b_start, b_end in self._union(other, since, until)
        )

    def _union(self, role: str, since: float, until: float) -> list[tuple[float, float]]:
        """The role's spans within a window, merged into disjoint ones."""
        merged: list[tuple[float, float]] = []
        for start, end in sorted(self._spans[role]):
            start, end = max(start, since), min(end, until)
            if start >= end:
                continue
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged
