"""What a server takes on at a time, and the memory that this comes to."""

from __future__ import annotations

import math
from dataclasses import dataclass

MIB = 2**20
LONGEST = 86_400.0  # seconds, of any wait


@dataclass(frozen=True)
class Limits:
    """What the server takes on.

    Raises:
        ValueError: If a limit is not a number in its range; the message is one sentence.
    """

    max_images: int = 32  # of a request, and of a batch
    max_wait: float = 0.005  # seconds that a request waits for company
    max_requests: int = 64  # being read, waiting, computed or answered
    max_message_bytes: int = 64 * MIB  # of a request, and of the images of a batch
    drain_seconds: float = 60.0  # for requests under way when it is told to stop
    reply_seconds: float = 30.0  # that a reply may take to be read

    def __post_init__(self) -> None:
        for value, most, unit, option in (
            (self.max_images, 65_536, "images", "--max-batch"),
            (self.max_requests, 65_536, "requests", "--max-requests"),
            (self.max_message_bytes / MIB, 1024, "MiB", "--max-message-mib"),  # protobuf's messages end at 2 GiB
        ):
            if not 1 <= value <= most:
                raise ValueError(f"{option} is {value:g}; it must be from 1 to {most} {unit}.")
        for seconds, option in (
            (self.max_wait, "--max-wait-ms"),
            (self.drain_seconds, "--drain-seconds"),
            (self.reply_seconds, "--reply-seconds"),
        ):
            if not (math.isfinite(seconds) and 0 <= seconds <= LONGEST):
                scale, unit = (1000, "milliseconds") if option.endswith("-ms") else (1, "seconds")
                raise ValueError(
                    f"{option} is {scale * seconds:g}; it must be from 0 to {scale * LONGEST:.0f} {unit} (a day)."
                )
        if not self.reply_seconds:
            raise ValueError("--reply-seconds is 0; a reply needs some time to be read.")

    @property
    def reply_bytes(self) -> int:
        """Room for replies with gradients that have not been read, each counted twice: gRPC copies what it sends.

        The gradients of one message of uint8 images have four times its size, so the largest always fits.
        """
        return 2 * 4 * self.max_message_bytes

    def memory(self, *, gradients: bool) -> int:
        """The bytes that requests hold at most, beside what the reward itself takes to compute.

        Args:
            gradients: Whether the reward has them.
        """
        messages = self.max_requests
        messages += 3  # one health check or reflection request, in gRPC's pieces, joined, and as bytes
        messages += 2  # the same two copies of the one request that is being taken over, or parsed
        messages += 1 + 4  # the images of a batch: joined, and as float32
        room = 0
        if gradients:
            messages += 4 + 3 * 4  # the gradients of a batch, and three copies while a reply is put together
            room = self.reply_bytes
        return messages * self.max_message_bytes + room
