"""The page in a browser: a scripted rater, an undo, a reload and a killed server, and the records are the choices."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from rewards.people import choices
from rewards.people.choices import BOTH_BAD, TIE
from tests.support.browser import chromium
from tests.support.taste import picture, verdict

pytestmark = pytest.mark.slow
KEYS = {0: Keys.ARROW_LEFT, 1: Keys.ARROW_RIGHT, TIE: Keys.ARROW_UP, BOTH_BAD: Keys.ARROW_DOWN}
HOSTILE = "<b onclick=alert(1)>bold & 'bad'"
SHOWN = """return {count: document.getElementById("count").textContent,
  prompt: document.getElementById("prompt").textContent, status: document.getElementById("status").textContent,
  places: [...document.querySelectorAll("#places img")].map((image) => image.src.split("/").pop()),
  whole: [...document.querySelectorAll("#places img")].filter((image) => image.naturalWidth).length === 2}"""


class Rater:
    """Somebody at the keys."""

    def __init__(self, browser: Chrome, pictures: Path) -> None:
        self._browser, self._pictures = browser, pictures
        self.made: list[tuple[str, str, str, int | str]] = []  # prompt, left, right, choice

    def wait(self, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """What is shown, once it is so."""

        def look(browser: Chrome) -> dict[str, Any] | None:
            shown = browser.execute_script(SHOWN)
            return shown if until(shown) else None

        found = WebDriverWait(self._browser, 60, poll_frequency=0.02).until(look)
        assert found is not None
        return found

    def press(self, key: str) -> None:
        """Press a key, wherever the focus is."""
        ActionChains(self._browser).send_keys(key).perform()

    def choose(self, wrong: bool = False) -> None:
        """Look at the two pictures, and press the key of the better one, or another."""
        now = self.wait(lambda shown: shown["count"] == f"{len(self.made)} of 40" and shown["whole"])
        left, right = now["places"]
        said = verdict(self._pictures / left, self._pictures / right)
        if wrong:
            said = 1 if said == 0 else 0
        self.made.append((now["prompt"], left, right, said))
        self.press(KEYS[said])

    def undo(self) -> None:
        """Take the last choice back."""
        self.wait(lambda shown: shown["count"] == f"{len(self.made)} of 40")
        *_, (prompt, left, right, _) = self.made
        self.made.pop()
        self.press("u")
        now = self.wait(lambda shown: shown["count"] == f"{len(self.made)} of 40")
        assert (now["prompt"], now["places"]) == (prompt, [left, right])


def free_port() -> int:
    """A port that a server can be started on twice."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def serve(folder: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cluster.label", str(folder), "--listen", f"127.0.0.1:{port}", "--again", "0.1112"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert server.stdout is not None
    said = [server.stdout.readline() for _ in range(2)]
    assert said[1].startswith(f"open http://127.0.0.1:{port}/ "), said
    return server


def test_the_records_are_exactly_the_choices(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for prompt in (HOSTILE, *(f"a disc, number {number}" for number in range(11))):
        (folder / prompt).mkdir(parents=True)
        for number in range(3):
            (folder / prompt / f"{number}.png").write_bytes(picture(rng))
    port = free_port()
    with chromium(tmp_path / "profile") as browser:
        server = serve(folder, port)
        try:
            browser.get(f"http://127.0.0.1:{port}/")
            rater = Rater(browser, folder / "people" / "pictures")
            browser.find_element(By.ID, "name").send_keys("Ada", Keys.ENTER)
            for number in range(40):
                if number == 10:
                    rater.choose(wrong=True)
                    rater.undo()
                if number == 20:
                    rater.wait(lambda shown: shown["count"] == "20 of 40")
                    browser.refresh()
                if number == 30:
                    rater.wait(lambda shown: shown["count"] == "30 of 40")
                    server.send_signal(signal.SIGKILL)
                    server.communicate()
                    rater.choose()
                    rater.wait(lambda shown: "not saved yet" in shown["status"])
                    assert len(choices.read(folder / "people")) == 30
                    server = serve(folder, port)
                    continue
                rater.choose()
            rater.wait(lambda shown: shown["count"] == "40 of 40")
            assert browser.find_element(By.ID, "rest-title").text == "That was all. Thank you!"
            assert not [entry for entry in browser.get_log("browser") if "Security Policy" in entry["message"]]
            server.terminate()
            said, _ = server.communicate(timeout=60)
        finally:
            server.kill()
            server.communicate()
    assert server.returncode == 0
    kept = choices.read(folder / "people")
    found = [(made.prompt, *(made.sets[index][0] for index in made.order), made.choice) for made in kept]
    assert found == rater.made
    assert {made.rater for made in kept} == {"Ada"}
    assert len({made.showing for made in kept}) == 40
    assert HOSTILE in {made.prompt for made in kept}
    assert len({made.choice for made in kept}) >= 3
    assert "4 of 4 that came again answered as before" in said


def test_zoom_is_in_step_and_the_page_can_be_read_aloud(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "a disc").mkdir(parents=True)
    for number in range(3):
        (folder / "a disc" / f"{number}.png").write_bytes(picture(np.random.default_rng(number)))
    port = free_port()
    with chromium(tmp_path / "profile", (400, 800)) as browser:
        server = serve(folder, port)
        try:
            browser.get(f"http://127.0.0.1:{port}/")
            browser.find_element(By.ID, "name").send_keys("Bo", Keys.ENTER)
            rater = Rater(browser, folder / "people" / "pictures")
            rater.wait(lambda shown: shown["count"] == "0 of 3" and shown["whole"])
            rater.press("z")
            ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.ARROW_LEFT).key_up(Keys.SHIFT).perform()
            seen = browser.execute_script(
                'return [...document.querySelectorAll("#places img")].map((image) => {const style = '
                "getComputedStyle(image); return [style.transform, style.transformOrigin]})"
            )
            assert seen[0][0] == "matrix(3, 0, 0, 3, 0, 0)"
            assert seen[0] == seen[1]
            assert browser.find_element(By.ID, "zoom").get_attribute("aria-pressed") == "true"
            assert browser.find_element(By.ID, "count").text == "0 of 3"  # looking around is no choice
            assert [image.accessible_name for image in browser.find_elements(By.CSS_SELECTOR, "#places img")] in (
                ["Left picture", "Right picture"],
                ["Upper picture", "Lower picture"],
            )
            buttons = browser.find_elements(By.CSS_SELECTOR, "#choices button")
            assert {button.accessible_name for button in buttons} >= {"Tie", "Both bad"}
            buttons[0].send_keys(Keys.ENTER)  # as a screen reader presses it
            rater.wait(lambda shown: shown["count"] == "1 of 3")
            assert browser.switch_to.active_element == buttons[0]
            assert browser.find_element(By.ID, "status").get_attribute("aria-live") == "polite"
            width = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
            assert width[0] <= width[1]
        finally:
            server.kill()
            server.communicate()
