"""The report of a run that goes on: written after the first iteration, then as often as costs next to nothing."""

from __future__ import annotations

import logging
import time

from cluster.errors import WriteError
from cluster.pages.report import write_report
from cluster.records.reading import Records

log = logging.getLogger(__name__)

_PAUSE = 30.0  # seconds between two pages, at least
_SHARE = 0.02  # of a run's time, at most


class LivePage:
    """Writes a run's page now and then.

    Args:
        run: Of the page.
    """

    def __init__(self, run: Records) -> None:
        self._run, self._due, self._broken = run, 0.0, False

    def refresh(self) -> None:
        """Write the page, if it is time; what goes wrong with it costs a warning, and never the run.

        Raises:
            WriteError: If the disk is full or broken.
        """
        began = time.monotonic()
        if self._broken or began < self._due:
            return
        try:
            write_report(self._run)
        except WriteError:
            raise
        except Exception as error:  # a page is no reason to lose a night's training
            log.warning("The run's page cannot be written while it goes on (%s: %s).", type(error).__name__, error)
            self._broken = True
        ended = time.monotonic()
        self._due = ended + max(_PAUSE, (ended - began) / _SHARE)
