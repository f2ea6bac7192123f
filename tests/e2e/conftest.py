"""What tests of whole programs share: a real browser."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

# A busy machine may take seconds for what usually takes none; 5 s are Playwright's own patience.
_PATIENCE_MS = 60_000
expect.set_options(timeout=_PATIENCE_MS)

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for the tests of a module; without one they are skipped, and fail in CI."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        reason = "chromium is not installed (Debian: apt install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=_ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that tolerates no error of its script and no breach of its content policy."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(_PATIENCE_MS)
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # What a fetch or a stream says of a server that is away is not the page's fault.
        if message.type == "error" and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    opened.on("console", listen)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    opened.close()
    assert complaints == []
