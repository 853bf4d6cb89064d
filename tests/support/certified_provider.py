"""The certified OpenID provider (npm ``oidc-provider``) as a process of the test."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from tests.support.deployment import wait_for

FOLDER = Path(__file__).parent / "oidc_provider"


@contextmanager
def certified_provider(port: int, client_id: str, client_secret: str, redirect_uri: str, log: Path) -> Iterator[str]:
    """Its issuer; people sign in as ``alice`` or ``bob`` with any password.

    Raises:
        AssertionError: Node or the installed packages are missing (``make test`` installs them), or it does not start.
    """
    node = shutil.which("node")
    assert node is not None, "the tests need Node 20"
    assert (FOLDER / "node_modules").is_dir(), "run `make test`, which installs the provider's packages"
    with log.open("w") as output:
        process = subprocess.Popen(
            [node, "server.mjs", str(port), client_id, client_secret, redirect_uri],
            cwd=FOLDER,
            stdout=output,
            stderr=output,
        )
    try:
        issuer = f"http://localhost:{port}"
        wait_for(lambda: _answers(issuer), 30, what="the certified provider")
        yield issuer
    finally:
        process.terminate()
        process.wait()


def _answers(issuer: str) -> bool:
    try:
        url = issuer.replace("localhost", "127.0.0.1") + "/.well-known/openid-configuration"
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
