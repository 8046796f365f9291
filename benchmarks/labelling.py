"""How fast the page of `cluster.label` is: from a key to the next pair in a browser, and with many raters at once.

    python -m benchmarks.labelling [--pairs 500] [--raters 20] [--beside "python -m cluster.local iterations=1"]

The time of a choice is the page's own measure: from the key's event to the frame that shows the next pair, the choice
being on the disk. Raters at once are 20 clients without a browser that choose as fast as they are answered, which no
people do; their time is that of one answer.
"""

from __future__ import annotations

import asyncio
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import numpy as np
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from cluster.arguments import Parser
from rewards.people.questions import Question, keep_picture, offer
from tests.support.browser import chromium
from tests.support.taste import picture

_MEASURES = 'return performance.getEntriesByName("choice").map((entry) => entry.duration)'


def fill(folder: Path, pairs: int, side: int) -> None:
    """Put questions with pictures of so many pixels a side into a folder."""
    rng = np.random.default_rng(0)
    names = [keep_picture(folder, picture(rng, side)) for _ in range(64)]
    places = [(one, other) for one in range(64) for other in range(one)]
    offer(folder, [Question(f"pair {n}", ((names[a],), (names[b],))) for n, (a, b) in enumerate(places[:pairs])])


@contextmanager
def page(source: Path, records: Path) -> Iterator[str]:
    """The address of the page of a folder, served by the command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(source), "--records", str(records), "--shared", "1", "--again", "0"]
    server = subprocess.Popen(
        [sys.executable, "-m", "cluster.label", *words, "--listen", f"127.0.0.1:{port}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        while "open http" not in (line := server.stdout.readline()):
            assert line, "the page was not served"
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.communicate()


def in_browser(address: str, profile: Path, pairs: int) -> np.ndarray:
    """Seconds of each of so many choices by keys."""
    with chromium(profile) as browser:
        browser.get(address)
        browser.find_element(By.ID, "name").send_keys("Ada", Keys.ENTER)
        body = browser.find_element(By.TAG_NAME, "body")
        made, key = 0, (Keys.ARROW_LEFT, Keys.ARROW_RIGHT)
        while made < pairs:
            body.send_keys(key[made % 2])
            while len(found := browser.execute_script(_MEASURES)) <= made:
                time.sleep(0.005)
                if not found and made == 0:
                    body.send_keys(key[0])  # the first key came before the first pair
            made = len(found)
            time.sleep(0.05)  # as the quickest of people
        return np.array(found[:pairs]) / 1000


async def at_once(address: str, raters: int, each: int) -> np.ndarray:
    """Seconds of the answers to choices of raters who choose as fast as they are answered."""
    seconds: list[float] = []

    async def rate(session: aiohttp.ClientSession, rater: str) -> None:
        now = await (await session.get(f"{address}/api/next", params={"rater": rater})).json()
        for number in range(each):
            shown = now["showings"][0]
            kept = {name: shown[name] for name in ("question", "round", "places")}
            began = time.perf_counter()
            response = await session.post(
                f"{address}/api/choose", json={**kept, "id": f"{rater}{number:06d}", "rater": rater, "choice": 0}
            )
            now = await response.json()
            assert response.status == 200, now
            seconds.append(time.perf_counter() - began)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(rate(session, f"rater{number}") for number in range(raters)))
    return np.array(seconds)


def said(what: str, seconds: np.ndarray) -> str:
    """Median and 95th percentile in a line."""
    middle, high = 1000 * np.median(seconds), 1000 * np.percentile(seconds, 95)
    return f"{what}: median {middle:.1f} ms, 95 % within {high:.1f} ms ({len(seconds)} choices)"


def main() -> None:
    """Measure and print."""
    parser = Parser("benchmarks.labelling", __doc__ or "")
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--raters", type=int, default=20)
    parser.add_argument("--side", type=int, default=512, help="pixels of a picture's side")
    parser.add_argument("--beside", help="a command that runs meanwhile, such as a training run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source" / "a disc").mkdir(parents=True)
        for seed in range(2):
            data = picture(np.random.default_rng(1000 + seed), args.side)
            (folder / "source" / "a disc" / f"{seed}.png").write_bytes(data)
        fill(folder / "records", args.pairs, args.side)
        beside = subprocess.Popen(shlex.split(args.beside), stdout=subprocess.DEVNULL) if args.beside else None
        try:
            with page(folder / "source", folder / "records") as address:
                found = in_browser(address, folder / "profile", args.pairs)
                print(said("from key to next pair, in the browser", found))
                found = asyncio.run(at_once(address, args.raters, min(50, args.pairs)))
                print(said(f"an answer, {args.raters} raters at once", found))
                print(f"choices a second, all raters together: {args.raters / found.mean():.0f}")
            if beside is not None:
                print(f"{args.beside!r} {'was running to the end' if beside.poll() is None else 'ended before that'}")
        finally:
            if beside is not None:
                beside.terminate()
                beside.wait()


if __name__ == "__main__":
    main()
