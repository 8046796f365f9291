"""The pages in a browser: no complaint, pictures load, sliders move, nothing leaves the page, markup stays text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from cluster import compare
from cluster.config import Config
from cluster.pages.report import write_report
from tests.support.browser import chromium
from tests.support.made_up_run import PROMPTS, SAMPLES, make_up

pytestmark = pytest.mark.slow

LOADED = "return document.images.length > 0 && [...document.images].every((i) => i.complete && i.naturalWidth > 0)"
SET = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
# How far anything stands out to the right of what can be scrolled to the side by itself.
WIDTH = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile"), log=True) as opened:
        yield opened


@pytest.fixture
def pages(make_config: Callable[..., Config], tmp_path: Path) -> dict[str, Path]:
    """A report of a run with another seed beside it, and a comparison of three."""
    words = {"a": ["seed=0"], "b": ["seed=1"], "c": ["seed=0", "learner.lr=0.01"]}
    runs = [make_up(make_config(f"name={name}", "iterations=4", *own), (0, 2, 4)) for name, own in words.items()]
    assert compare.main([*(str(run.path) for run in runs), "--out", str(tmp_path / "compare.html")]) == 0
    return {"report": write_report(runs[0]), "compare": tmp_path / "compare.html"}


def look(browser: Chrome, page: Path, width: int = 1280, dark: bool = False) -> None:
    """Open a page as large and as dark as it is to be, until its pictures are there."""
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.as_uri())
    WebDriverWait(browser, 60).until(lambda opened: opened.execute_script(LOADED))


def complaints(browser: Chrome) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


def requests(browser: Chrome) -> set[str]:
    """The schemes of everything that was asked for."""
    entries = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked: list[Any] = [of["params"]["request"]["url"] for of in entries if of["method"] == "Network.requestWillBeSent"]
    return {url.partition(":")[0] for url in asked}


@pytest.mark.parametrize("name", ["report", "compare"])
def test_nothing_complains_and_nothing_leaves_the_page(browser: Chrome, pages: dict[str, Path], name: str) -> None:
    for width, dark in ((1280, False), (400, True)):
        look(browser, pages[name], width, dark)
        assert complaints(browser) == []
        assert requests(browser) <= {"file", "data", "blob"}
        assert browser.execute_script(WIDTH) == 0
        ground = browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
        assert (max(map(int, ground[4:-1].split(","))) < 80) is dark
    hostile = PROMPTS[1]
    assert hostile in browser.find_element(By.TAG_NAME, "main").text
    assert browser.find_elements(By.CSS_SELECTOR, "img[src='x'], figcaption b, td b") == []


def test_the_sliders_move_what_is_seen(browser: Chrome, pages: dict[str, Path]) -> None:
    look(browser, pages["report"])
    section = browser.find_element(By.CSS_SELECTOR, "section.pictures")
    cells = section.find_elements(By.CSS_SELECTOR, ".cell")
    assert len(cells) == len(PROMPTS) * SAMPLES
    said, after = section.find_element(By.TAG_NAME, "output"), section.find_element(By.CSS_SELECTOR, ".after")
    cut, time = (section.find_element(By.CLASS_NAME, name) for name in ("cut", "time"))
    assert said.text == "iteration 0 | 4"
    clips = []
    for value in (0, 50, 100):
        browser.execute_script(SET, cut, value)
        clips.append(after.value_of_css_property("clip-path"))
    assert len(set(clips)) == 3
    image = after.find_element(By.TAG_NAME, "img")
    newest = image.get_attribute("src")
    browser.execute_script(SET, time, 1)
    WebDriverWait(browser, 30).until(lambda opened: opened.execute_script(LOADED))
    assert said.text == "iteration 0 | 2"
    assert image.get_attribute("src") != newest
    assert complaints(browser) == []


def test_values_are_read_under_the_pointer(browser: Chrome, pages: dict[str, Path]) -> None:
    look(browser, pages["report"])
    chart = browser.find_element(By.CSS_SELECTOR, "svg[aria-label='Learning rate']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    ActionChains(browser).move_to_element_with_offset(chart, -100, 0).perform()
    tip = chart.find_element(By.XPATH, "../div[@class='tip']")
    WebDriverWait(browser, 30).until(lambda _: tip.is_displayed())
    iteration, value = tip.text.split("\n")
    expected = {1: 0.00076, 2: 0.00051, 3: 0.00026, 4: 0.00001}[int(float(iteration))]
    assert float(value.split()[0]) == pytest.approx(expected, abs=2e-5)


def test_curves_are_seen_over_what_is_chosen(browser: Chrome, pages: dict[str, Path]) -> None:
    look(browser, pages["compare"])
    shown = {part.get_attribute("data-value"): part for part in browser.find_elements(By.CSS_SELECTOR, "[data-switch]")}
    assert [value for value, part in shown.items() if part.is_displayed()] == ["samples"]
    browser.find_element(By.CSS_SELECTOR, "input[value='hours']").click()
    assert [value for value, part in shown.items() if part.is_displayed()] == ["hours"]
