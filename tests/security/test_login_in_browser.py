"""The login form in a real browser, under the page's content security policy: wrong, right, and then an X-ray."""

from __future__ import annotations

from playwright.sync_api import expect, sync_playwright

from tests import needs
from tests.security.conftest import LOGIN
from tests.security.serving import Running

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
STILL = ("--disable-background-networking", "--disable-component-update")


def test_a_visitor_logs_in_and_segments_an_example(servers: dict[str, Running]) -> None:
    path, requests = needs.chromium(), []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*QUIET, *STILL])
        page = browser.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.goto(servers["locked"].url)
        user, password = page.get_by_label("username"), page.get_by_label("password")
        expect(page.locator("body")).to_contain_text("wrong passwords", timeout=30_000)
        user.fill(LOGIN[0])
        password.fill("wrong")
        page.get_by_role("button", name="Login").click()
        expect(page.get_by_text("Incorrect Credentials")).to_be_visible()
        user.fill(LOGIN[0])
        password.fill(LOGIN[1])
        page.get_by_role("button", name="Login").click()
        expect(page.locator(".sv")).to_have_attribute("data-state", "empty", timeout=30_000)
        page.locator(".sg-example").first.click()
        expect(page.locator(".sv")).to_have_attribute("data-state", "ready", timeout=30_000)
        browser.close()
    assert not [url for url in requests if not url.startswith((servers["locked"].url, "data:", "blob:"))]
