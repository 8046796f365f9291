"""A judge at a scripted chat server: pictures, answers by how bright they are, and what these come to."""

from __future__ import annotations

import math
from typing import Any

import torch
from aiohttp import web
from torch import Tensor

from rewards.vlm_judge import VlmJudge
from tests.support.chat_server import Asked, ChatServer, completion


def grey(*levels: int) -> Tensor:
    """Pictures of one grey each, `(B, 3, 8, 8)`."""
    return (torch.tensor(levels) / 255).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)


def judge(server: ChatServer, **options: Any) -> VlmJudge:
    return VlmJudge(server.url, "tiny-vlm", **options)


async def four(asked: Asked) -> web.StreamResponse:
    return web.json_response(completion("4"))


async def level(asked: Asked) -> web.StreamResponse:
    """1 to 5 by how bright the picture is, but 1 where the text asks for the dark."""
    digit = "1" if "dark" in asked.text else str(1 + asked.picture[0, 0, 0] // 60)
    return web.json_response(completion(digit, (digit, {digit: math.log(0.75), "3": math.log(0.25)})))


def mean(digit: int) -> float:
    return 0.75 * digit + 0.25 * 3 if digit != 3 else 3.0
