"""Learner ranks: processes that share each batch and take the same optimizer steps; plain torch.distributed.

Every rank has the whole batch and draws the same parts from it. The micro-batches of a part are dealt out to the ranks
like cards, and what each rank's add to the gradient is summed. Nothing is averaged: losses are already means over the
part, so the number of ranks appears in no formula.
"""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn


class RankLost(RuntimeError):
    """Another rank is gone or does not answer, so that this one cannot go on."""


class RanksDiffer(RuntimeError):
    """The ranks no longer hold the same parameters."""


class Ranks:
    """This process's place among the learner ranks; by default there is one, and nothing is communicated.

    Args:
        rank: Which of them this is.
        count: How many there are.
        group: What tensors are summed over; `None` is the default process group.

    Attributes:
        fitting: Items that go through the networks of this process at a time, since more did not fit into its memory.
    """

    def __init__(self, rank: int = 0, count: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.count, self._group = rank, count, group
        self.fitting: int | None = None

    def pieces(self, items: int, micro_batch: int) -> list[Tensor]:
        """This rank's micro-batches of a part: int64 indices below `items`, which may be none.

        They are those of one rank, unless there would not be one for every rank: then they are smaller.
        """
        size = min(micro_batch, -(-items // self.count))
        return list(torch.arange(items).split(size))[self.rank :: self.count]

    def sum_(self, values: Tensor) -> Tensor:
        """Replace a tensor by its sum over the ranks, the same bits on each."""
        if self.count > 1:
            with self._in_touch("a sum"):
                dist.all_reduce(values, group=self._group)
        return values

    def sum_metrics(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Each metric's sum over the ranks; one that a rank lacks counts as 0 there."""
        totals: dict[str, float] = {}
        for found in self._gather(dict(metrics)):
            for name, value in found.items():
                totals[name] = totals.get(name, 0.0) + value
        return totals

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the ranks; a parameter without one on any rank keeps none."""
        if self.count == 1:
            return
        # Which gradients there are travels with them: the optimizer skips a parameter without one.
        present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = self.sum_(torch.cat([g.flatten() for g in gradients] + [present.to(gradients[0].device)]))
        *sums, present = flat.split([p.numel() for p in parameters] + [len(parameters)])
        for parameter, total, ranks in zip(parameters, sums, present.tolist(), strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(total.view_as(parameter)) if ranks else None

    def check_equal(self, version: int, parameters: Sequence[nn.Parameter]) -> None:
        """Compare version and parameters with the other ranks'.

        Raises:
            RanksDiffer: If they are not equal, bit for bit.
        """
        if self.count == 1:
            return
        checksum = 0
        for parameter in parameters:
            checksum = zlib.crc32(parameter.detach().cpu().contiguous().numpy().tobytes(), checksum)
        found = self._gather((version, checksum))
        if len(set(found)) > 1:
            listed = ", ".join(f"rank {rank}: {version} ({crc:08x})" for rank, (version, crc) in enumerate(found))
            raise RanksDiffer(
                f"The learner ranks hold different weights after the same batch (version and checksum of {listed}), so "
                "none is published. They must run the same software on the same kind of device and be restored from "
                "the same checkpoint; continue from the newest one."
            )

    def _gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of the ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with self._in_touch("an exchange"):
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def _in_touch(self, doing: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RankLost(
                f"Learner rank {self.rank} of {self.count} waited in {doing} for a rank that is gone or does not "
                f"answer: {str(error).splitlines()[0]}"
            ) from error


ALONE = Ranks()


def listen(address: str) -> dist.TCPStore:
    """Rank 0: a store on a free port of an address of this machine, where the ranks find each other."""
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        return dist.TCPStore(
            address, port, is_master=True, wait_for_workers=False, master_listen_fd=os.dup(server.fileno())
        )


def join(
    rank: int, addresses: Sequence[str], store: dist.TCPStore | int, timeout: float, device: torch.device
) -> Ranks:
    """Meet the other ranks.

    Args:
        rank: Of this process.
        addresses: Of each rank's machine, as the others reach it; rank 0 listens on the first.
        store: What `listen` gave (rank 0), or its port.
        timeout: Seconds to wait for the other ranks here and in each exchange, until they count as lost.
        device: Of the parameters.

    Raises:
        RankLost: If they did not all come.
    """
    for backend in ("GLOO", "NCCL"):
        if interface := interface_of(addresses[rank]):
            os.environ.setdefault(f"{backend}_SOCKET_IFNAME", interface)
    count, limit = len(addresses), timedelta(seconds=timeout)
    ranks = Ranks(rank, count)
    with ranks._in_touch("the meeting"):
        if isinstance(store, int):
            store = dist.TCPStore(addresses[0], store, is_master=False, timeout=limit)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=limit)
        if device.type == "cuda":
            cards = ranks._gather(str(torch.cuda.get_device_properties(device).uuid))
            if len(set(cards)) == count:  # NCCL wants a GPU for each rank; Gloo sums those of ranks that share one
                return Ranks(rank, count, dist.new_group(backend="nccl", timeout=limit))
    return ranks


def interface_of(address: str) -> str | None:
    """The network interface that has an address; left alone, Gloo would take the one of the machine's own name."""
    return next((name for name, own in psutil.net_if_addrs().items() if address in {a.address for a in own}), None)
