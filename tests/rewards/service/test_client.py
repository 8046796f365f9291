"""The client: a reward like any other, that survives its server's absence and says when it is over."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from rewards import make_reward, reward_class
from rewards.errors import RewardUnavailable
from rewards.reward import Reward, UnknownReward
from rewards.service.client import RewardClient
from rewards.service.codec import SERVICE
from rewards.service.reward_pb2 import Description
from rewards.service.security import TOKEN_VARIABLE, Insecure
from rewards.shapes_agreement import ShapesAgreement
from rewards.weighted import WeightedSum

Server = Any  # conftest's
Serve = Callable[..., Any]
IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a", "bb", "ccc"]
WANTED = 1000 * IMAGES.mean(dim=(1, 2, 3)) + torch.tensor([1.0, 2.0, 3.0])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def test_an_address_is_the_name_of_a_reward() -> None:
    assert reward_class("grpc://127.0.0.1:1") is reward_class("grpcs://a.example:1") is RewardClient
    assert issubclass(RewardClient, Reward)
    assert RewardClient.differentiable
    assert isinstance(make_reward("grpc://127.0.0.1:1", deadline=1.0, patience=0.0), RewardClient)


@pytest.mark.parametrize("address", ["grpc://", "grpc://host", "grpc://:1", "grpcs://host:port"])
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(UnknownReward, match="host:port"):
        make_reward(address)


def test_a_token_does_not_leave_the_machine_unencrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("secret")
    for options in ({"token": "secret"}, {"token_file": str(tmp_path / "token")}):
        with pytest.raises(Insecure, match="grpcs://") as error:
            RewardClient("grpc://rewards.example:1", **options)
        assert "secret" not in str(error.value)
        RewardClient("grpc://rewards.example:1", insecure=True, **options)
        RewardClient("grpcs://rewards.example:1", **options)
        RewardClient("grpc://127.0.0.1:1", **options)
    RewardClient("grpc://rewards.example:1")
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    with pytest.raises(Insecure):
        RewardClient("grpc://rewards.example:1")


def test_certificates_without_tls_or_without_their_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="grpcs://"):
        RewardClient("grpc://127.0.0.1:1", authority=tmp_path / "ca.pem")
    with pytest.raises(ValueError, match="needs its key"):
        RewardClient("grpcs://127.0.0.1:1", certificate=tmp_path / "client.pem")


@pytest.mark.parametrize("name", ["deadline", "patience"])
@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 1e9, "60", True])
def test_seconds_that_cannot_be_waited_are_refused(name: str, seconds: Any) -> None:
    with pytest.raises(ValueError, match=f"The option '{name}' of grpc://127.0.0.1:1 is .*it must be from"):
        RewardClient("grpc://127.0.0.1:1", **{name: seconds})


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """Starts servers that are none of ours: `answering(Describe=bytes, Score=bytes)` is an address."""
    servers: list[grpc.Server] = []

    def start(**answers: bytes) -> str:
        server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_send_message_length", -1)])
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(lambda request, context, answer=answer: answer)
            for method, answer in answers.items()
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"grpc://127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0)


DESCRIPTION = Description(reward="a", max_images=32, max_message_bytes=2**20).SerializeToString()


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"Describe": b"\xff"}, "something else than a Description"),
        ({"Describe": b""}, "takes no images at all"),
        ({"Describe": DESCRIPTION, "Score": b"\xff"}, "something else than a Judgement"),
        ({"Describe": DESCRIPTION, "Score": bytes(66 * 2**20)}, "larger than max"),
    ],
    ids=["nonsense", "nothing", "nonsense as scores", "too large"],
)
def test_a_server_that_answers_with_something_else_ends_in_a_sentence_at_once(
    answering: Callable[..., str], answers: dict[str, bytes], words: str
) -> None:
    client = RewardClient(answering(**answers), patience=600.0)
    with pytest.raises(RewardUnavailable, match=words) as error:
        client.score(IMAGES, PROMPTS)
    assert "\n" not in str(error.value)


def test_a_server_that_stays_away_ends_in_a_sentence_once_patience_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"grpc://127.0.0.1:{free_port()}"
    client = RewardClient(address, patience=1.0)
    started = time.monotonic()
    with pytest.raises(RewardUnavailable) as error:
        client.score(IMAGES, PROMPTS)
    assert time.monotonic() - started >= 1.0
    assert f"The reward at {address} has not answered for" in str(error.value)
    assert "patience is 1" in str(error.value)
    # The circuit is open: from now on one attempt each, and no pause.
    monkeypatch.setattr("rewards.service.client.time.sleep", lambda _: pytest.fail("it waits"))
    for _ in range(3):
        with pytest.raises(RewardUnavailable):
            client.embed(IMAGES)


@pytest.mark.slow
def test_gradients_flow_from_score_into_the_images(shared_server: Server) -> None:
    client = RewardClient(shared_server.address)
    leaf = IMAGES.clone().requires_grad_()
    scores = client.score(leaf, PROMPTS)
    torch.testing.assert_close(scores.detach(), WANTED)
    (scores * torch.tensor([1.0, 0.0, -2.0])).sum().backward()
    each = 1000 / leaf[0].numel() * torch.tensor([1.0, 0.0, -2.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(leaf.grad, each.expand(3, 3, 8, 8))
    with torch.no_grad():
        assert not client.score(leaf, PROMPTS).requires_grad


@pytest.mark.slow
def test_it_is_one_of_several_rewards(shared_server: Server) -> None:
    makers = {"there": partial(make_reward, shared_server.address, deadline=20.0), "here": ShapesAgreement}
    both = WeightedSum.make(makers, {"there": 2.0, "here": -1.0})
    here = make_reward("shapes_agreement")
    scores, gradients = both.score_and_grad(IMAGES, PROMPTS)
    alone, alone_gradients = here.score_and_grad(IMAGES, PROMPTS)
    assert both.differentiable
    torch.testing.assert_close(scores, 2 * WANTED - alone)
    torch.testing.assert_close(gradients, 2000 / IMAGES[0].numel() - alone_gradients)


@pytest.mark.slow
def test_images_that_are_no_numbers_get_none_and_cost_the_others_nothing(shared_server: Server) -> None:
    client, images = RewardClient(shared_server.address), IMAGES.clone()
    images[1, 0, 0, 0] = torch.nan
    scores, gradients = client.score_and_grad(images, PROMPTS)
    assert scores.isnan().tolist() == [False, True, False]
    assert gradients.isnan().flatten(1).all(dim=1).tolist() == [False, True, False]
    torch.testing.assert_close(scores[[0, 2]], WANTED[[0, 2]])
    assert client.embed(images).isnan().any(dim=1).tolist() == [False, True, False]


@pytest.mark.slow
def test_what_the_server_refuses_or_fails_at_is_an_ordinary_error(shared_server: Server) -> None:
    client = RewardClient(shared_server.address)
    with pytest.raises(ValueError, match=r"refused a request: .*outside"):
        client.score(IMAGES + 1, PROMPTS)
    with pytest.raises(ValueError, match="2 prompts for 3 images"):
        client.score(IMAGES, PROMPTS[:2])
    with pytest.raises(RuntimeError, match="raised ValueError: cannot judge this") as error:
        client.score(IMAGES, ["a", "raise", "b"])
    assert not isinstance(error.value, RewardUnavailable)
    torch.testing.assert_close(client.score(IMAGES, PROMPTS), WANTED)


@pytest.mark.slow
def test_a_black_box_on_the_server_refuses_gradients_and_features_here(serve: Serve) -> None:
    server = serve(reward="jpeg_compressibility")
    client = RewardClient(server.address)
    assert torch.equal(client.score(IMAGES, PROMPTS), make_reward("jpeg_compressibility").score(IMAGES, PROMPTS))
    with pytest.raises(TypeError, match=r"jpeg_compressibility at grpc://.* has no gradient .*give it weight 0"):
        client.score_and_grad(IMAGES, PROMPTS)
    with pytest.raises(TypeError, match="has no image features"):
        client.embed(IMAGES)


@pytest.mark.slow
def test_a_server_that_was_killed_and_comes_back_costs_only_time(serve: Serve) -> None:
    server = serve()
    client = RewardClient(server.address, patience=60.0)
    torch.testing.assert_close(client.score(IMAGES, PROMPTS), WANTED)
    server.hold()
    found: list[torch.Tensor] = []
    asking = threading.Thread(target=lambda: found.append(client.score(IMAGES, PROMPTS)))
    asking.start()
    server.wait_for_batches(2)
    server.process.kill()
    server.process.wait()
    serve(port=server.port)
    asking.join(60)
    torch.testing.assert_close(found[0], WANTED)


@pytest.mark.slow
def test_a_server_that_hangs_is_as_good_as_away(serve: Serve) -> None:
    server = serve()
    client = RewardClient(server.address, deadline=0.5, patience=1.0)
    server.hold()
    with pytest.raises(RewardUnavailable, match="DEADLINE_EXCEEDED"):
        client.score(IMAGES, PROMPTS)
    server.release()
    torch.testing.assert_close(client.score(IMAGES, PROMPTS), WANTED)
