"""The server as its clients meet it: a real process on loopback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import rewards
from rewards.service.client import RewardClient
from rewards.service.codec import SERVICE, decode, encode
from rewards.service.reward_pb2 import Description, Images, Judgement

pytestmark = pytest.mark.slow

Server = Any  # conftest's
Serve = Callable[..., Any]


def pixels(*levels: int, side: int = 8) -> torch.Tensor:
    """Images of one level each, of 255; the probe gives them 1000 times level / 255 plus the prompt's length."""
    return torch.tensor(levels).float().div(255).view(-1, 1, 1, 1).expand(-1, 3, side, side).contiguous()


def expected(*levels: int, length: int) -> torch.Tensor:
    return 1000 * torch.tensor(levels).float() / 255 + length


def message(*levels: int, prompt: str = "abc") -> bytes:
    images = np.tile(np.array(levels, np.uint8)[:, None, None, None], (1, 8, 8, 3))
    return Images(pixels=encode(images), prompts=[prompt] * len(levels)).SerializeToString()


def call(server: Server, method: str = "Score", target: str | None = None) -> grpc.UnaryUnaryMultiCallable:
    """A method without any of the client's care: bytes in, bytes out."""
    return grpc.insecure_channel(target or server.target).unary_unary(f"/{SERVICE}/{method}")


def health(server: Server) -> int:
    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(server.target))
    return stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10).status


def test_scores_gradients_and_features_are_the_rewards_own(shared_server: Server) -> None:
    images = torch.rand(3, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    client = RewardClient(shared_server.address)
    prompts = ["a", "nan", "abc"]
    scores, gradients = client.score_and_grad(images, prompts)
    wanted = 1000 * images.mean(dim=(1, 2, 3)) + torch.tensor([1, torch.nan, 3])
    torch.testing.assert_close(scores, wanted, equal_nan=True, rtol=1e-6, atol=0)
    torch.testing.assert_close(client.score(images, prompts), wanted, equal_nan=True, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients, torch.full_like(images, 1000 / images[0].numel()))
    assert torch.equal(client.embed(images), images.flatten(1)[:, :5])


def test_clients_at_the_same_time_each_get_their_own_scores_in_order(shared_server: Server) -> None:
    def ask(number: int) -> bool:
        client = RewardClient(shared_server.address)
        for first in range(8):
            levels = [(31 * number + 7 * i + first) % 256 for i in range(1 + (number + first) % 40)]
            scores = client.score(pixels(*levels), ["p" * number] * len(levels))
            if not torch.allclose(scores, expected(*levels, length=number), rtol=1e-6):
                return False
        return True

    before = len(shared_server.batches)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(8))) == [True] * 8
    assert max(shared_server.batches[before:]) <= 32


def test_what_waits_is_computed_in_one_batch(shared_server: Server) -> None:
    score, before = call(shared_server), len(shared_server.batches)
    shared_server.hold()
    try:
        first = score.future(message(0))
        shared_server.wait_for_batches(before + 1)
        others = [score.future(message(level, level + 1)) for level in range(1, 9)]
        time.sleep(0.5)
    finally:
        shared_server.release()
    for level, reply in enumerate([first, *others]):
        scores = decode(Judgement.FromString(reply.result()).scores, "scores", ("float32",), 1)
        levels = [0] if level == 0 else [level, level + 1]
        np.testing.assert_allclose(scores, expected(*levels, length=3).numpy(), rtol=1e-6)
    assert shared_server.batches[before:] == [1, 16]


def test_a_reward_that_raises_is_an_internal_error_and_the_server_lives_on(shared_server: Server) -> None:
    with pytest.raises(grpc.RpcError) as error:
        call(shared_server)(message(1, prompt="raise"))
    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert error.value.details() == "The reward raised ValueError: cannot judge this"
    call(shared_server)(message(1))


def test_a_request_whose_deadline_passes_while_it_waits_is_not_computed(shared_server: Server) -> None:
    score, before = call(shared_server), len(shared_server.batches)
    shared_server.hold()
    try:
        first = score.future(message(0))
        shared_server.wait_for_batches(before + 1)
        with pytest.raises(grpc.RpcError) as error:
            score(message(1, 1, 1), timeout=0.3)
        last = score.future(message(2, 2))
        time.sleep(0.3)
    finally:
        shared_server.release()
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    first.result()
    last.result()
    assert shared_server.batches[before:] == [1, 2]


def test_more_requests_than_fit_are_turned_away_and_the_server_lives_on(serve: Serve) -> None:
    server = serve("--max-requests", "3")
    score = call(server)
    server.hold()
    futures = [score.future(message(level)) for level in range(20)]
    codes = []
    for future in futures:
        # Whoever got in waits; everybody else hears at once.
        try:
            future.result(timeout=2)
        except grpc.FutureTimeoutError:
            codes.append(None)
        except grpc.RpcError as error:
            codes.append(error.code())
    assert codes.count(None) == 3
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 17
    assert health(server) == health_pb2.HealthCheckResponse.SERVING
    server.release()
    for future, code in zip(futures, codes, strict=True):
        if code is None:
            future.result()
    score(message(1))


def test_clients_get_everything_out_of_a_server_that_is_too_small_for_them(serve: Serve) -> None:
    server = serve("--max-requests", "2", "--max-batch", "3")

    def ask(number: int) -> torch.Tensor:
        client = RewardClient(server.address, patience=60)
        return client.score(pixels(*range(20)), ["p" * number] * 20)

    with ThreadPoolExecutor(4) as threads:
        for number, scores in enumerate(threads.map(ask, range(4))):
            torch.testing.assert_close(scores, expected(*range(20), length=number), rtol=1e-6, atol=0)
    assert max(server.batches) <= 3


def test_a_message_above_the_limit_is_refused(serve: Serve) -> None:
    server = serve("--max-message-mib", "1")
    with pytest.raises(grpc.RpcError) as error:
        call(server)(bytes(2 * 2**20))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    images = torch.rand(20, 3, 128, 128)  # 3.9 MB: the client sends them in parts
    client = RewardClient(server.address)
    torch.testing.assert_close(client.score(images, [""] * 20), 1000 * images.mean(dim=(1, 2, 3)))
    assert sum(server.batches) == 20
    with pytest.raises(ValueError, match="do not fit into the 1 MiB"):
        client.score(torch.rand(1, 3, 512, 512), [""])


def test_sigterm_finishes_what_is_under_way_and_lets_nothing_else_in(serve: Serve) -> None:
    server = serve()
    score = call(server)
    server.hold()
    under_way = [score.future(message(1)), score.future(message(2, 3))]
    server.wait_for_batches(1)
    time.sleep(0.3)
    assert health(server) == health_pb2.HealthCheckResponse.SERVING
    server.process.send_signal(signal.SIGTERM)
    while health(server) != health_pb2.HealthCheckResponse.NOT_SERVING:
        time.sleep(0.05)
    with pytest.raises(grpc.RpcError) as error:
        score(message(4), timeout=10)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.process.poll() is None
    server.release()
    for future, levels in zip(under_way, ([1], [2, 3]), strict=True):
        scores = decode(Judgement.FromString(future.result()).scores, "scores", ("float32",), 1)
        np.testing.assert_allclose(scores, expected(*levels, length=3).numpy(), rtol=1e-6)
    assert server.process.wait(20) == 0


@pytest.mark.parametrize("how", ["a second signal", "its time is over"])
def test_what_does_not_finish_does_not_hold_the_server_for_ever(serve: Serve, how: str) -> None:
    server = serve("--drain-seconds", "600" if how == "a second signal" else "0.2")
    server.hold()
    stuck = call(server).future(message(1))
    server.wait_for_batches(1)
    server.process.send_signal(signal.SIGTERM)
    if how == "a second signal":
        while health(server) != health_pb2.HealthCheckResponse.NOT_SERVING:  # until the first one has been noticed
            time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError):
        stuck.result(timeout=20)
    assert server.process.wait(20) == 1


def test_the_service_describes_itself(shared_server: Server) -> None:
    found = Description.FromString(call(shared_server, "Describe")(b""))
    assert (found.reward, found.differentiable, found.features) == ("probe", True, True)
    assert (found.max_images, found.max_message_bytes) == (32, 64 * 2**20)


def test_reflection_names_the_services_and_their_methods(shared_server: Server) -> None:
    database = ProtoReflectionDescriptorDatabase(grpc.insecure_channel(shared_server.target))
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    (service,) = database.FindFileContainingSymbol(SERVICE).service
    assert [method.name for method in service.method] == ["Describe", "Score", "ScoreAndGrad", "Embed"]


def test_health_is_answered_for_the_server_and_its_service(shared_server: Server) -> None:
    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(shared_server.target))
    for service in ("", SERVICE):
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_a_second_server_on_the_same_port_says_that_it_is_taken(shared_server: Server) -> None:
    root = Path(rewards.__file__).parents[1]
    command = [sys.executable, "-m", "rewards.serve", "--reward", "jpeg_compressibility"]
    ended = subprocess.run(
        [*command, "--listen", shared_server.target], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "another process may have it" in ended.stderr
