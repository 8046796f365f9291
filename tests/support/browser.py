"""A headless Chromium, where there is one; `REINOISE_BROWSER=required` says that there must be (CI)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium(profile: Path, size: tuple[int, int] = (1280, 800), log: bool = False) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile.

    Args:
        profile: A folder for it.
        size: Of the window, in pixels.
        log: Whether it keeps what it asks for (the log "performance") and everything on its console.
    """
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        if os.environ.get("REINOISE_BROWSER") == "required":
            pytest.fail("There is no chromium or no chromedriver: apt-get install chromium chromium-driver.")
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    if log:
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield opened
    finally:
        opened.quit()
