"""Debian's Chromium through Playwright, trusting one certificate authority and reaching nothing but loopback."""

import base64
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Browser, sync_playwright

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=HttpsUpgrades",
]


@contextmanager
def chromium(ca_file: Path) -> Iterator[Browser]:
    """A headless browser that accepts certificates of the authority in ``ca_file`` and of nobody else besides.

    Raises:
        AssertionError: Chromium is not installed (``make test`` installs it).
    """
    program = shutil.which("chromium")
    assert program is not None, "the tests need Chromium; `make test` installs it on Debian"
    certificate = x509.load_pem_x509_certificate(ca_file.read_bytes())
    public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(public).digest()).decode()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, headless=True, args=[*_FLAGS, f"--ignore-certificate-errors-spki-list={pin}"]
        )
        try:
            yield browser
        finally:
            browser.close()
