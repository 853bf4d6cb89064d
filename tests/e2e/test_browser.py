"""A real browser signs in at a certified provider."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page
from tests.support.browser import chromium
from tests.support.certified_provider import certified_provider
from tests.support.deployment import free_port, short_folder, wait_for
from tests.support.echo import EchoServer, echo_server
from tests.support.site import SECRET, Site, everyone, signed_in, site

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(180)]


@dataclass
class World:
    site: Site
    browser: Browser
    upstream: EchoServer

    def page(self) -> Page:
        """A page with cookies of its own."""
        return self.browser.new_context().new_page()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with echo_server("app") as upstream, short_folder() as folder:
        to = f"http://127.0.0.1:{upstream.port}"
        admins = [{"allow": {"and": [{"groups": {"has": "admins"}}]}}]
        routes = [
            {"name": "verify", "from": "verify", "to": to, "policy": signed_in(), "claim_headers": {"x-who": "email"}},
            {"name": "admin", "from": "admin", "to": to, "policy": admins, "explanation": "For administrators."},
            {
                "name": "fresh", "from": "fresh", "to": to,
                "policy": [{"allow": {"and": [{"authentication": {"max_age": "1h"}}]}}],
            },
            {
                "name": "strong", "from": "strong", "to": to,
                "policy": [{"allow": {"and": [{"authentication": {"methods": ["hwk"]}}]}}],
            },
            {"name": "public", "from": "public", "to": to, "policy": everyone()},
            # Siblings of one site to a browser: `*.app.localhost` share a registrable domain, `*.localhost` do not.
            {"name": "wiki", "from": "wiki.app", "to": to, "policy": signed_in(), "websocket": True},
            {"name": "blog", "from": "blog.app", "to": to, "policy": everyone()},
        ]  # fmt: skip
        provider_port = free_port()
        with site(folder, routes, issuer=f"http://localhost:{provider_port}") as made:
            redirect = f"{made.url('authenticate')}/.doorward/callback/demo"
            with (
                certified_provider(provider_port, "site", SECRET, redirect, folder / "certified.log"),
                chromium(made.data / "certificates" / "authority.crt") as browser,
            ):
                yield World(made, browser, upstream)


def sign_in(page: Page, url: str, person: str) -> None:
    """Through the provider's own pages: login, then consent."""
    page.goto(url)
    page.fill('input[name="login"]', person)
    page.fill('input[name="password"]', "any")
    page.click('button[type="submit"]')
    page.click('button[type="submit"]')
    page.wait_for_url(lambda address: address.startswith(url.split("/", 3)[0] + "//" + url.split("/", 3)[2]))


def handles(page: Page) -> dict[str, str]:
    """The session handle on each protected host."""
    return {
        cookie["domain"].removesuffix(".localhost"): cookie["value"]
        for cookie in page.context.cookies()
        if cookie["name"] == "__Host-doorward"
    }


def status(world: World, name: str, handle: str) -> int:
    """What a copy of the browser's cookie is worth at this moment."""
    with world.site.client() as client:
        url = world.site.url(name) + "/"
        return client.request("GET", url, cookie_header=f"__Host-doorward={handle}").status_code


def test_alice_sees_admin_and_signing_out_on_one_host_ends_both(world: World):
    page = world.page()
    sign_in(page, world.site.url("admin") + "/", "alice")
    seen = json.loads(page.inner_text("body"))
    assert seen["upstream"] == "app"
    page.goto(world.site.url("verify") + "/")
    headers = dict(json.loads(page.inner_text("body"))["headers"])
    assert headers["x-who"] == "alice@example.com"
    kept = handles(page)
    page.goto(world.site.url("verify") + "/.doorward/sign_out")
    page.click('button[type="submit"]')
    assert "signed out" in page.inner_text("body").lower()
    assert set(kept) == {"verify", "admin"}
    for name, handle in kept.items():
        assert status(world, name, handle) == 401


def test_bob_gets_a_clear_denial_with_a_decision_id(world: World):
    page = world.page()
    sign_in(page, world.site.url("admin") + "/", "bob")
    text = page.inner_text("body")
    assert "You may not open this page" in text
    assert "For administrators." in text
    assert "bob@example.com" in text
    match = re.search(r"Decision ([0-9a-f-]+)", text)
    assert match is not None
    explained = world.site.run.command("explain", match.group(1))
    assert "groups" in explained.stdout, explained.stderr


def test_an_operators_revoke_ends_the_session_at_the_next_request(world: World):
    page = world.page()
    sign_in(page, world.site.url("verify") + "/", "bob")
    listed = [json.loads(line) for line in world.site.run.command("session", "list", "--json").stdout.splitlines()]
    newest = max(listed, key=lambda session: session["issued_at"])
    handle = handles(page)["verify"]
    assert status(world, "verify", handle) == 200
    result = world.site.run.command("session", "revoke", newest["id"], "--json")
    assert json.loads(result.stdout)["state"] == "applied"
    assert status(world, "verify", handle) == 401


def test_a_certified_provider_is_asked_how_long_ago_it_saw_somebody(world: World):
    """It tells only when `max_age` asks for it; a session of unknown age is never a fresh one."""
    page = world.page()
    sign_in(page, world.site.url("verify") + "/", "alice")
    old = handles(page)["verify"]
    answer = page.goto(world.site.url("fresh") + "/")
    assert answer is not None
    assert (answer.status, page.url) == (200, world.site.url("fresh") + "/")
    assert json.loads(page.inner_text("body"))["upstream"] == "app"
    assert status(world, "verify", old) == 401, "the session of unknown age has ended"
    assert status(world, "fresh", handles(page)["fresh"]) == 200


def test_a_step_up_that_the_provider_cannot_give_ends_on_a_page(world: World):
    page = world.page()
    sign_in(page, world.site.url("verify") + "/", "alice")
    page.goto(world.site.url("strong") + "/")
    page.fill('input[name="login"]', "alice")
    page.fill('input[name="password"]', "any")
    page.click('button[type="submit"]')
    page.wait_for_url(lambda address: "/.doorward/callback/" in address)
    assert "A stronger sign-in is needed" in page.inner_text("body")
    page.click("a.button")
    assert page.locator('input[name="login"]').count() == 1, "it is the provider's turn again, and only then"


def test_s85_a_siblings_script_can_neither_post_nor_open_a_socket(world: World):
    """The browser sends the cookie along, because both hosts are of one site; where the request came from still shows."""
    page = world.page()
    wiki, blog = world.site.url("wiki.app"), world.site.url("blog.app")
    sign_in(page, wiki + "/", "alice")
    page.goto(blog + "/")
    outcome = page.evaluate(
        """async (url) => {
            const post = await fetch(url + '/x', {method: 'POST', mode: 'no-cors', credentials: 'include'})
                .then(() => 'sent', () => 'failed');
            const socket = await new Promise((done) => {
                const ws = new WebSocket(url.replace('https', 'wss') + '/ws');
                ws.onopen = () => done('open');
                ws.onerror = () => done('refused');
            });
            return {post, socket};
        }""",
        wiki,
    )
    assert outcome == {"post": "sent", "socket": "refused"}
    page.evaluate(
        """(url) => {
            const form = document.createElement('form');
            form.method = 'POST';
            form.action = url + '/x';
            document.body.append(form);
            form.submit();
        }""",
        wiki,
    )
    page.wait_for_url(wiki + "/x")
    assert "Request refused" in page.inner_text("body")

    def refused() -> list[dict[str, object]]:
        records = [r for r in world.site.run.decisions() if r["route"] == "wiki" and r["outcome"] == "foreign-origin"]
        return records if len(records) >= 3 else []

    made = wait_for(refused, what="three refusals")
    assert sorted(str(record["method"]) for record in made) == ["GET", "POST", "POST"]
    assert all(record["session_id"] for record in made), "the cookie came along and was known"
    assert not [seen for seen in world.upstream.seen if seen["method"] == "POST" or "/ws" in str(seen["target"])]


def test_s46_a_sibling_cannot_toss_its_cookie_over_ours(world: World):
    page = world.page()
    wiki, blog = world.site.url("wiki.app"), world.site.url("blog.app")
    sign_in(page, wiki + "/", "alice")
    page.goto(blog + "/")
    page.evaluate(
        """() => {
            const names = ['__Host-doorward', '__host-doorward', '\u2000__Host-doorward', '=__Host-doorward', '__Host-doorward '];
            for (const name of names) {
                for (const rest of ['; Domain=app.localhost; Path=/; Secure', '; Domain=app.localhost; Path=/', '; Path=/; Secure'])
                    document.cookie = name + '=tossed' + rest;
            }
        }"""
    )
    answer = page.goto(wiki + "/")
    assert answer is not None
    assert answer.status == 200
    assert json.loads(page.inner_text("body"))["upstream"] == "app", "somebody was signed out by a sibling"
