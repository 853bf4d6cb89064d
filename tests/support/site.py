"""A deployment with a configuration of the test's own, its identity provider open to faults."""

import functools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.support.deployment import Running, free_port, start, wait_for
from tests.support.http_client import BrowserlessClient
from tests.support.raw_http import raw

from doorward.config.sources import ROUTES_FOLDER

SECRET = "site-secret"


@dataclass
class Site:
    """What the test writes and talks to."""

    folder: Path
    port: int
    provider_port: int
    routes: list[dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    issuer: str = ""
    running: Running | None = None
    second_port: int | None = None
    """Port of another identity provider, `second`, whose word counts for the same domains."""
    provider: subprocess.Popen[bytes] | None = None
    scopes: tuple[str, ...] = ()
    """What is asked of the identity provider besides the usual."""

    @property
    def config(self) -> Path:
        return self.folder / "doorward.yaml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def where(self) -> Path:
        """What the planes are told to read: the folder, when there are files with routes of their own in it."""
        return self.folder if (self.folder / ROUTES_FOLDER).is_dir() else self.config

    def url(self, name: str) -> str:
        return f"https://{name}.localhost:{self.port}"

    def _from(self, name: str) -> str:
        if name.startswith("tcp:"):
            return f"tcp+https://{name.removeprefix('tcp:')}.localhost:5432"
        return self.url(name)

    @property
    def run(self) -> Running:
        assert self.running is not None
        return self.running

    def write(self) -> None:
        """Write the configuration, whole or not at all."""
        document = {
            "version": 1,
            "listen": f"127.0.0.1:{self.port}",
            "authenticate_url": self.url("authenticate"),
            "identity_providers": self._providers(),
            "decision_log": {"file": "data/logs/decisions.jsonl"},
            "routes": [{**route, "from": self._from(route["from"])} for route in self.routes],
            **self.settings,
        }
        scratch = self.config.with_suffix(".new")
        scratch.write_text(yaml.safe_dump(document))
        scratch.replace(self.config)

    def _providers(self) -> list[dict[str, Any]]:
        issuers = {"demo": self.issuer or f"http://localhost:{self.provider_port}"}
        if self.second_port is not None:
            issuers["second"] = f"http://localhost:{self.second_port}"
        return [
            {
                "id": name,
                "name": f"The {name} provider",
                "issuer": issuer,
                "client_id": "site",
                "client_secret": "file:secret",
                "scopes": ["openid", "email", "profile", "groups", *self.scopes],
                "email_domains": ["example.com", "partner.example"],
                "claims": {"groups": "groups"},
            }
            for name, issuer in issuers.items()
        ]

    @property
    def ca_file(self) -> Path:
        return self.data / "certificates" / "authority.crt"

    def client(self, *, http2: bool = False) -> BrowserlessClient:
        return BrowserlessClient(self.ca_file, http2=http2)

    def raw(self, name: str, text: bytes, certificate: tuple[str, str] | None = None) -> bytes:
        """Send bytes as they are to the host ``name``, and return what comes back."""
        return raw(self.ca_file, self.port, f"{name}.localhost", text, certificate)

    def host(self, name: str) -> str:
        """Host and port of ``name`` as a Host header carries them."""
        return f"{name}.localhost:{self.port}"

    def keys_asked(self) -> dict[str, int]:
        """How often each address with keys was asked at the identity provider."""
        answer = httpx.get(f"http://127.0.0.1:{self.provider_port}/_asked", trust_env=False)
        return dict(answer.json())

    def issued(self) -> list[dict[str, str]]:
        """All tokens of the identity provider."""
        return list(httpx.get(f"http://127.0.0.1:{self.provider_port}/_issued", trust_env=False).json())

    def set_faults(self, **faults: object) -> None:
        httpx.post(f"http://127.0.0.1:{self.provider_port}/_faults", json=faults, trust_env=False).raise_for_status()


def everyone() -> list[dict[str, Any]]:
    return [{"allow": {"or": [{"accept": True}]}}]


def signed_in() -> list[dict[str, Any]]:
    return [{"allow": {"and": [{"authenticated_user": True}]}}]


def group(name: str) -> list[dict[str, Any]]:
    return [{"allow": {"and": [{"groups": {"has": name}}]}}]


@contextmanager
def site(
    folder: Path,
    routes: list[dict[str, Any]],
    *,
    issuer: str = "",
    port: int | None = None,
    two_providers: bool = False,
    scopes: tuple[str, ...] = (),
    **settings: Any,
) -> Iterator[Site]:
    """Start everything; ``from`` of a route is a bare name that becomes ``https://<name>.localhost:<port>``, ``tcp:name``
    one that becomes ``tcp+https://<name>.localhost:5432``."""
    made = Site(folder, port or free_port(), free_port(), routes, settings, issuer, scopes=scopes)
    if two_providers:
        made.second_port = free_port()
    (folder / "secret").write_text(SECRET)
    (made.data / "logs").mkdir(parents=True)
    made.write()
    with ExitStack() as stack:
        made.provider = stack.enter_context(_identity_provider(made, "demo", made.provider_port))
        if made.second_port is not None:
            stack.enter_context(_identity_provider(made, "second", made.second_port))
        for provider_port in filter(None, (made.provider_port, made.second_port)):
            wait_for(functools.partial(_answers, provider_port), what="the identity provider")
        made.running = start(["run", "--config", str(made.where)], made.data)
        try:
            yield made
        finally:
            made.running.stop()


@contextmanager
def _identity_provider(made: Site, name: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable, "-m", "doorward.demo.identity_provider", "--port", str(port),
        "--data", str(made.folder / f"provider-{name}"), "--client-id", "site",
        "--client-secret-file", str(made.folder / "secret"),
        "--redirect-uri", f"{made.url('authenticate')}/.doorward/callback/{name}", "--faults",
    ]  # fmt: skip
    with (made.folder / f"provider-{name}.log").open("w") as log:
        provider = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield provider
    finally:
        provider.terminate()
        provider.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/jwks", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
