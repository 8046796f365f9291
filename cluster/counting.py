"""How far a command is: a bar on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SPEAKS = 60.0  # seconds between two lines, where there is no bar


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to tell how many are done of how many, while this is open.

    Args:
        console: Where it is shown.
        what: Is counted, such as `pictures`.
    """
    columns = BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeElapsedColumn(), TimeRemainingColumn()
    spoke = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task("", total=None)

        def count(done: int, total: int) -> None:
            nonlocal spoke
            bars.update(bar, completed=done, total=total)
            if not console.is_terminal and time.monotonic() - spoke >= SPEAKS:
                spoke = time.monotonic()
                console.print(f"{done} of {total} {what}", markup=False, highlight=False, soft_wrap=True)

        yield count
