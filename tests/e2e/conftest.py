"""One demo for all tests that do no harm to it, and fresh clients."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.support.deployment import Running, short_folder, start
from tests.support.http_client import BrowserlessClient

PASSWORDS = {
    "alice": ("alice@example.com", "alice-demo"),
    "bob": ("bob@example.com", "bob-demo"),
    "carol": ("carol@partner.example", "carol-demo"),
}


@pytest.fixture(scope="session")
def demo() -> Iterator[Running]:
    with short_folder() as folder:
        running = start(["demo", "--port", "0"], folder / "data")
        try:
            yield running
        finally:
            running.stop()


@pytest.fixture
def url(demo: Running) -> Callable[[str], str]:
    return lambda name: demo.ready["urls"][name]


@pytest.fixture
def browser(demo: Running) -> Iterator[Callable[..., BrowserlessClient]]:
    """Makes clients; ``browser("alice")`` is signed in at `verify`."""
    with ExitStack() as stack:

        def make(person: str | None = None, *, http2: bool = False) -> BrowserlessClient:
            client = stack.enter_context(BrowserlessClient(demo.ca_file, http2=http2))
            if person is not None:
                response = client.sign_in(demo.ready["urls"]["verify"] + "/json", *PASSWORDS[person])
                assert response.status_code == 200, response.text
            return client

        yield make
