"""How well a picture shows its prompt, by a vision language model behind a server that speaks OpenAI's chat format.

The model answers with one digit, and the score is that digit on average over the model's own probabilities, as in
G-Eval (Liu et al., arXiv 2303.16634, section 2): it tells pictures apart that get the same digit. Left out are numbers
of two digits, which many tokenisers split, so that no place holds the probabilities of all, and reasoning beforehand.
"""

from __future__ import annotations

import asyncio
import base64
import difflib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rewards.chat import Chat, Refused, check_url, read_key
from rewards.digit import expected_digit
from rewards.reward import Reward, to_pixels

QUESTION = """How well does the picture show what this text asks for?
Text: {prompt}
Answer with one digit from {lowest} (nothing of it) to {highest} (all of it), and with nothing else."""

log = logging.getLogger(__name__)
_FIELDS = ("prompt", "lowest", "highest")
_ENCODERS: dict[str, dict[str, Any]] = {"png": {}, "jpeg": {"quality": 95}}


class VlmJudge(Reward):
    """The mean digit from `lowest` to `highest`; the digit itself where the server tells no probabilities.

    Pictures of a call are asked about side by side, without randomness (temperature 0 and a seed). One whose answer is
    no digit of the scale is NaN; a call of which every picture is says why instead.

    Args:
        base_url: What the server's `/chat/completions` hangs on, such as `http://localhost:8000/v1`.
        model: Name that the server knows it by.
        question: Text beside the picture; `{prompt}`, `{lowest}` and `{highest}` are filled in.
        lowest: The worst digit.
        highest: The best digit.
        log_probs: Of how many tokens probabilities are asked for, up to 20; 0 for servers that refuse the question.
        seed: Of the server's sampling.
        key_variable: Environment variable with the API key, where the reward lives; null sends none.
        insecure: Send the key without TLS to another machine.
        image_format: What pictures travel as: `png`, or `jpeg` of quality 95.
        concurrency: Pictures of one call that are asked about at the same time.
        deadline: Seconds that one attempt may take.
        patience: Seconds for which a picture is asked about again, if the server is busy, slow or broken. Then it is
            NaN; if there was no answer about any picture of the call, the reward counts as gone for good.
        extra: Further fields of each request, over those of their name; null leaves one out.

    Attributes:
        dropped: How many pictures have got no score so far.

    Raises:
        ValueError: If an option cannot work; the message is one sentence.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        question: str = QUESTION,
        lowest: int = 1,
        highest: int = 5,
        log_probs: int = 20,
        seed: int = 0,
        key_variable: str | None = None,
        insecure: bool = False,
        image_format: Literal["png", "jpeg"] = "png",
        concurrency: int = 8,
        deadline: float = 60.0,
        patience: float = 300.0,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        _check_number("lowest", lowest, 0, 8)
        _check_number("highest", highest, lowest + 1, 9)
        _check_number("log_probs", log_probs, 0, 20)
        _check_number("concurrency", concurrency, 1, 1024)
        _check_number("deadline", deadline, 0.001, 86_400)
        _check_number("patience", patience, 0.0, 86_400)
        if image_format not in _ENCODERS:
            raise ValueError(f"The option 'image_format' is {image_format!r}; it must be 'png' or 'jpeg'.")
        check_url(base_url)
        key = None if key_variable is None else read_key(key_variable, base_url, insecure)
        self._chat = Chat(base_url, key, concurrency, deadline, patience)
        self._question, self._scale = _filled(question, lowest, highest), range(lowest, highest + 1)
        self._format = image_format
        self._fields = {"model": model, "temperature": 0, "seed": seed, "max_tokens": 16}
        if log_probs:
            self._fields |= {"logprobs": True, "top_logprobs": log_probs}
        self._extra = dict(extra or {})
        self.dropped = 0

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        pairs = zip(to_pixels(images), prompts, strict=True)
        requests = [partial(self._request, picture, prompt) for picture, prompt in pairs]
        asked = self._chat.ask(requests, partial(expected_digit, scale=self._scale))
        with ThreadPoolExecutor(1) as thread:  # whoever asks may have a loop running in its own, as notebooks have
            answers = thread.submit(asyncio.run, asked).result()
        missing = [answer for answer in answers if isinstance(answer, Refused)]
        self.dropped += len(missing)
        if missing:
            said = f"{self._chat.url} gave {len(missing)} of {len(answers)} pictures no score, the first: {missing[0]}"
            if len(missing) == len(answers):
                raise ValueError(said)
            log.warning("%s (%d pictures so far)", said, self.dropped)
        return torch.tensor([float("nan") if isinstance(answer, Refused) else answer for answer in answers])

    def _request(self, picture: np.ndarray, prompt: str) -> bytes:
        file = BytesIO()
        Image.fromarray(picture).save(file, self._format, **_ENCODERS[self._format])
        address = f"data:image/{self._format};base64,{base64.b64encode(file.getvalue()).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": address}},
            {"type": "text", "text": self._question.replace("{prompt}", prompt)},
        ]
        fields = {**self._fields, "messages": [{"role": "user", "content": content}], **self._extra}
        return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def _filled(question: str, lowest: int, highest: int) -> str:
    """The question with its scale."""
    for field in re.findall(r"\{(\w+)\}", question):
        if field not in _FIELDS:
            near = difflib.get_close_matches(field, _FIELDS, n=1)
            hint = f" (did you mean {{{near[0]}}}?)" if near else ""
            raise ValueError(
                f"The option 'question' has the field {{{field}}}{hint}; it may have {{prompt}}, {{lowest}} and "
                "{highest}."
            )
    return question.replace("{lowest}", str(lowest)).replace("{highest}", str(highest))


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    whole = isinstance(least, int)
    if not isinstance(value, int if whole else (int, float)) or isinstance(value, bool) or not least <= value <= most:
        what = "a whole number" if whole else "a number"
        raise ValueError(f"The option {name!r} is {value!r}; it must be {what} from {least:g} to {most:g}.")
