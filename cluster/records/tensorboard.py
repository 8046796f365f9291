"""TensorBoard's event files, written record by record: no thread and no queue, so a killed run has lost nothing."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class EventFile:
    """Writes one event file; TensorBoard reads all those of a folder in order.

    Args:
        folder: Where.
        purge_step: Make TensorBoard forget this step and all later ones of earlier files; `None` forgets nothing.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        # Nanoseconds, for the library's own stamp is in seconds and it would write over an earlier file.
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        if purge_step is not None:
            self._write(purge_step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write figures."""
        self._write(step, summary=Summary(value=[Summary.Value(tag=n, simple_value=v) for n, v in values.items()]))

    def image(self, step: int, tag: str, image: Image.Image) -> None:
        """Write an image."""
        data = io.BytesIO()
        image.save(data, format="PNG")
        png = Summary.Image(width=image.width, height=image.height, colorspace=3, encoded_image_string=data.getvalue())
        self._write(step, summary=Summary(value=[Summary.Value(tag=tag, image=png)]))

    def close(self) -> None:
        """Let the file go."""
        self._writer.close()

    def _write(self, step: int, **content: Summary | SessionLog) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, **content))
        self._writer.flush()
