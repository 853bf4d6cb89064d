"""What axe finds wrong with our pages: contrast, names, landmarks, order of headings. In light and in dark, by a real browser.

And what a narrow screen does not show of them.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page
from tests.support.browser import chromium
from tests.support.client_certificates import ClientAuthority
from tests.support.every_page import Shown, all_pages, unlisted

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

AXE = Path(__file__).parents[2] / "support" / "accessibility" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = all_pages()
ADDRESS = "http://page.test/"
WIDE, NARROW = 900, 320
"""In CSS pixels. The narrow one is that of WCAG 2.2, section 1.4.10: a large one at four times its size."""
BEYOND = """() => [...document.querySelectorAll("*")]
    .filter(item => item.scrollWidth > document.documentElement.clientWidth || item.getBoundingClientRect().left < 0)
    .map(item => item.outerHTML)"""
Finding = tuple[str, str, list[str]]


class Reader:
    """A browser's page that reads ours one after the other."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._policy = ""

    def found(self, shown: Shown) -> list[Finding]:
        """Scheme and rule of each finding, what is wrong and where; what axe could not decide counts too."""
        self._be_under(shown.policy)
        self._page.emulate_media(color_scheme="light")
        self._page.set_content(shown.text)
        light = self._page.evaluate("() => axe.run()")
        self._page.emulate_media(color_scheme="dark")
        # Nothing but colours depends on the scheme.
        dark = self._page.evaluate("() => axe.run({runOnly: ['color-contrast']})")
        return [
            (scheme, f"{rule['id']}: {rule['help']}", [node["html"] for node in rule["nodes"]])
            for scheme, result in (("light", light), ("dark", dark))
            for rule in (*result["violations"], *result["incomplete"])
        ]

    def beyond(self, shown: Shown) -> list[str]:
        """What a narrow screen shows only to those who move it sideways."""
        self._be_under(shown.policy)
        self._page.set_viewport_size({"width": NARROW, "height": WIDE})
        try:
            self._page.set_content(shown.text)
            found: list[str] = self._page.evaluate(BEYOND)
        finally:
            self._page.set_viewport_size({"width": WIDE, "height": WIDE})
        return found

    def _be_under(self, policy: str) -> None:
        """Have ``policy`` in force: a style sheet that it keeps out would not be looked at. What is written anew stays under it."""
        if policy == self._policy:
            return
        headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": policy}
        self._page.unroute_all()
        self._page.route(ADDRESS, lambda route: route.fulfill(body="<!doctype html>", headers=headers))
        self._page.goto(ADDRESS)
        self._page.evaluate(AXE.read_text())
        self._policy = policy


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    assert AXE.is_file(), "axe-core is missing; `make test` installs it"
    authority = tmp_path_factory.mktemp("nobody") / "ca.crt"
    authority.write_text(ClientAuthority().pem)
    with chromium(authority) as browser:
        yield Reader(browser.new_context(viewport={"width": WIDE, "height": WIDE}).new_page())


def test_no_template_is_left_out():
    assert unlisted() == set()


@pytest.mark.parametrize("shown", PAGES, ids=[shown.name for shown in PAGES])
def test_axe_finds_nothing(reader: Reader, shown: Shown):
    found = reader.found(shown)
    assert not found, json.dumps(found, indent=2)


@pytest.mark.parametrize("shown", PAGES, ids=[shown.name for shown in PAGES])
def test_a_narrow_screen_shows_all_of_it(reader: Reader, shown: Shown):
    assert reader.beyond(shown) == []


def test_axe_would_find_something_and_no_other_style_counts(reader: Reader):
    """Else all of these would hold whatever the pages look like."""
    ours = "main{background:#fff;color:#000}@media (prefers-color-scheme: dark){main{color:#eee}}"
    source = f"'sha256-{base64.b64encode(hashlib.sha256(ours.encode()).digest()).decode()}'"
    body = "<main><h1>t</h1><input><a href=/></a></main>"
    text = f"<!doctype html><html><title>t</title><style>{ours}</style><style>main{{color:#fff}}</style>{body}"
    found = reader.found(Shown("bad", text, f"default-src 'none'; style-src {source}"))
    rules = {(scheme, rule.partition(":")[0]) for scheme, rule, _ in found}
    assert rules >= {("light", "html-has-lang"), ("light", "label"), ("light", "link-name"), ("dark", "color-contrast")}
    assert ("light", "color-contrast") not in rules
    assert reader.beyond(Shown("wide", f"<!doctype html><p>{'w' * 100}", "default-src 'none'"))
