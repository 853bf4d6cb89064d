"""A browser without a screen: cookies by host, redirects by hand, `*.localhost` on loopback."""

import html
import re
import ssl
import urllib.parse
from pathlib import Path
from typing import Self

import httpx

NAVIGATION = {"accept": "text/html,application/xhtml+xml", "sec-fetch-dest": "document", "sec-fetch-mode": "navigate"}
MAX_HOPS = 15


class BrowserlessClient:
    """Keeps cookies as a browser does for ``__Host-`` names: by host, never for another one."""

    def __init__(self, ca_file: Path, *, http2: bool = False) -> None:
        self._client = httpx.Client(
            verify=ssl.create_default_context(cafile=str(ca_file)),
            http2=http2,
            http1=not http2,
            trust_env=False,
            follow_redirects=False,
            timeout=15,
        )
        self.cookies: dict[str, dict[str, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def address(self, port: int) -> str:
        """Where a host's port really is; for tests that stand between client and server."""
        return f"127.0.0.1:{port}"

    def cookie(self, host: str, name: str) -> str | None:
        return self.cookies.get(host, {}).get(name)

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        data: dict[str, str] | None = None,
        content: bytes | None = None,
        cookie_header: str | None = None,
    ) -> httpx.Response:
        """One request; ``cookie_header`` replaces what the jar would send."""
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        jar = "; ".join(f"{name}={value}" for name, value in self.cookies.get(host, {}).items())
        sent: dict[str, str | bytes] = {**(headers or {}), "host": parts.netloc}
        cookies = jar if cookie_header is None else cookie_header
        if cookies:
            sent["cookie"] = cookies.encode("latin-1")
        target = parts._replace(netloc=self.address(parts.port or 443)).geturl()
        response = self._client.request(
            method, target, headers=list(sent.items()), data=data, content=content, extensions={"sni_hostname": host}
        )
        self._client.cookies.clear()
        for line in response.headers.get_list("set-cookie"):
            self._store(host, line)
        return response

    def get(self, url: str, **options: str | dict[str, str]) -> httpx.Response:
        return self.request("GET", url, **options)  # type: ignore[arg-type]  # passed on as they are

    def navigate(self, url: str) -> httpx.Response:
        """Go to a page as a browser does, through every redirect."""
        for _ in range(MAX_HOPS):
            response = self.request("GET", url, headers=NAVIGATION)
            if not response.is_redirect:
                response.extensions["final_url"] = url
                return response
            url = urllib.parse.urljoin(url, response.headers["location"])
        raise AssertionError(f"more than {MAX_HOPS} redirects, last to {url}")

    def sign_in(self, url: str, email: str, password: str) -> httpx.Response:
        """Go to a protected page and sign in at the demo's identity provider; the page that was asked for."""
        response = self.navigate(url)
        login = response.extensions["final_url"]
        if 'name="password"' not in response.text:
            return response
        response = self.submit(login, response, {"email": email, "password": password})
        assert response.is_redirect, response.text
        return self.navigate(response.headers["location"])

    def submit(self, page_url: str, page: httpx.Response, fields: dict[str, str]) -> httpx.Response:
        """Send the page's form with ``fields``; hidden ones go along."""
        action = re.search(r'<form[^>]*action="([^"]+)"', page.text)
        hidden = {
            name: html.unescape(value)
            for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page.text)
        }
        target = urllib.parse.urljoin(page_url, html.unescape(action.group(1))) if action else page_url
        origin = urllib.parse.urlsplit(page_url)
        headers = {
            **NAVIGATION,
            "origin": f"{origin.scheme}://{origin.netloc}",
            "sec-fetch-site": "same-origin",
        }
        return self.request("POST", target, headers=headers, data={**hidden, **fields})

    def _store(self, host: str, line: str) -> None:
        pair, *attributes = [part.strip() for part in line.split(";")]
        name, _, value = pair.partition("=")
        names = {attribute.lower() for attribute in attributes}
        if name.startswith("__Host-"):
            assert {"secure", "path=/"} <= names, line
            assert not any(attribute.startswith("domain") for attribute in names), line
        jar = self.cookies.setdefault(host, {})
        if "max-age=0" in names:
            jar.pop(name, None)
        else:
            jar[name] = value
