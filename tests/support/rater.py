"""A rater with a taste who opens the page of `cluster.label` and chooses as a browser would, over HTTP."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from io import BytesIO
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from tests.support.taste import liking, of_two


class Rater:
    """Answers whatever the page asks, in a thread, until told to stop; a page that is gone is asked again.

    Args:
        address: Of the page, such as `http://127.0.0.1:8080`, or what says it: a page may come back elsewhere.
        name: Of the rater.
        likes: How much the rater likes a picture `(H, W, 3)` uint8.
        most: Leave after so many choices.

    Attributes:
        made: Choices that the page has said to be kept.
    """

    def __init__(
        self,
        address: str | Callable[[], str],
        name: str = "Ada",
        likes: Callable[[np.ndarray], float] = liking,
        most: int | None = None,
    ) -> None:
        self._where = address if callable(address) else lambda: address
        self._name, self._likes, self._most = name, likes, most
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.made = 0

    def __enter__(self) -> Rater:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while not self._stop.is_set() and self.made != self._most:
            try:
                asked = json.loads(self._get(f"/api/next?rater={urllib.parse.quote(self._name)}"))["showings"]
                if asked:
                    self._choose(asked[0])
                    continue
            except (OSError, urllib.error.URLError):
                pass
            time.sleep(0.2)

    def _choose(self, shown: dict[str, Any]) -> None:
        one, other = (self._likes(self._picture(names[0])) for names in shown["places"])
        kept = {name: shown[name] for name in ("question", "round", "places")}
        self._post("/api/choose", {**kept, "id": uuid4().hex, "rater": self._name, "choice": of_two(one, other)})
        self.made += 1

    def _picture(self, name: str) -> np.ndarray:
        with Image.open(BytesIO(self._get(f"/pictures/{name}"))) as image:
            return np.asarray(image.convert("RGB"))

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self._where() + path, timeout=10) as answer:
            return answer.read()

    def _post(self, path: str, body: dict[str, Any]) -> None:
        request = urllib.request.Request(
            self._where() + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10):
            pass
