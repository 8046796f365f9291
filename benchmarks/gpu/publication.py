"""How long new weights are on their way from a learner's process until a sampler, an actor of its own, acts by them."""

from __future__ import annotations

import logging
import statistics
import time
from typing import Any

import ray
import torch

from actors.config import PolicyConfig
from actors.policy import Policy
from actors.sampler import Sampler
from actors.trajectories import Request, Weights
from cluster.crew.weights import WeightStore

_STORE, _TIMES = "benchmarks.gpu", 5


def on_their_way(config: PolicyConfig) -> tuple[int, float, float]:
    """Publish weights of a policy to a sampler on this machine, several times.

    Returns:
        Bytes of the weights, and median seconds: of their publication (from the device, with a checksum, into Ray's
        object store), and from there until the sampler has verified and loaded them.
    """
    gpus = torch.cuda.device_count()
    ray.init(
        address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, num_gpus=gpus,
        _node_ip_address="127.0.0.1",
    )  # fmt: skip
    try:
        store: Any = ray.remote(WeightStore).options(num_cpus=0, name=_STORE).remote()
        sampler: Any = ray.remote(Sampler).options(num_cpus=0, num_gpus=min(gpus, 1)).remote(config, _STORE)
        ray.get(sampler.ready.remote())
        policy, published, lags = Policy.load(config), [], []
        for version in range(1, _TIMES + 1):
            began = time.perf_counter()
            weights = Weights.pack(version, *policy.weights())
            ray.get(store.publish.remote([ray.put(weights)]))
            published.append(time.perf_counter() - began)
            request = Request(0, version, ("a red circle",), (0,), (0,))
            receipt, *_ = sampler.rollout.options(num_returns=3).remote(request, version)
            lags.append(ray.get(receipt)["lag"])
        return weights.flat.nbytes, statistics.median(published), statistics.median(lags)
    finally:
        ray.shutdown()
