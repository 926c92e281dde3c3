"""Debian's chromium, and a panel on a song in it."""

import pytest
from playwright.sync_api import sync_playwright

from tests.support.panels import running_panel

CHROMIUM = "/usr/bin/chromium"
#: Of Playwright, for a machine that is busy with other things.
PATIENCE_MS = 60_000


@pytest.fixture(scope="session")
def chromium():
    """The browser, with nothing of the outside to be reached."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Open a page on a panel; whatever it complains of fails the test."""
    contexts, complaints = [], []

    def open_(panel, *, width=1280, height=800, dark=True):
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda told: told.type == "error" and complaints.append(told.text))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((panel.address, "blob:", "data:"))
                else complaints.append(f"asked the outside: {request.url}")
            ),
        )
        page.goto(panel.address)
        page.wait_for_selector(".lane.original")
        return page

    open_.complaints = complaints
    yield open_
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture
def panel(bundle, song):
    """A panel on a song of 1.5 s with the prompts half and nothing."""
    with running_panel(song, "--model", bundle, "-p", "half", "-p", "nothing") as running:
        yield running
