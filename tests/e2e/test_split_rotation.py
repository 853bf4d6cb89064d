"""Certificates, their authority and the keys change while four planes apart serve, and nobody notices."""

import json
import subprocess
import threading
import time
from typing import Self

import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from tests.e2e.test_split import routes, sign_in
from tests.support.deployment import short_folder, wait_for
from tests.support.echo import echo_server
from tests.support.split import LOST_SOCKETS, Checker, Split, SplitClient, failed, report, split_deployment, status

pytestmark = [pytest.mark.e2e, LOST_SOCKETS, pytest.mark.timeout(240)]


class Upstream:
    """What an upstream does with every request: it verifies the assertion by the keys that it fetched a little earlier."""

    def __init__(self, made: Split, cookie: str) -> None:
        self.ids: list[str] = []
        """By which key each assertion was verified, in order."""
        self.failures: list[str] = []
        self._made, self._cookie = made, cookie
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self._made.client(1) as first, self._made.client(2) as second:
            while not self._stop.is_set():
                keys = published(first, self._made)
                for client in (first, second) * 5:
                    answer = client.request("GET", self._made.url("closed") + "/", cookie_header=self._cookie)
                    if answer.status_code != 200:
                        continue  # counted by whoever counts answers
                    token = dict(answer.json()["headers"])["x-doorward-jwt-assertion"]
                    try:
                        self.ids.append(str(jwt.decode(token, keys, algorithms=["ES256"]).header["kid"]))
                    except (JoseError, ValueError) as error:
                        self.failures.append(repr(error))


def published(client: SplitClient, made: Split) -> KeySet:
    answer = client.request("GET", made.url("closed") + "/.well-known/doorward/jwks.json")
    return KeySet.import_key_set(answer.json())


def elapse(made: Split, purpose: str) -> None:
    """Let what a rotation waits for be long ago."""
    path = made.folder / "master" / "keys" / f"{purpose}.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "changed_at": document["changed_at"] - 3600}))


def test_certificates_authority_and_keys_change_without_a_dropped_request():
    """Certificates live for twenty seconds; their authority, the cookies' key and the assertions' key are changed meanwhile."""
    with echo_server("up") as upstream, short_folder() as folder:
        keeper: list[subprocess.Popen[bytes]] = []

        def prepare(made: Split) -> None:
            # What keeps certificates up is an operator's tool: here it is our own, writing into every plane's folder.
            keeper.append(made.keep_certificates("20s"))

        try:
            with split_deployment(folder, routes(upstream), life="20s", prepare=prepare) as made:
                cookie = sign_in(made)
                first = status(made)["processes"]
                with Checker(made, cookie) as checker, Upstream(made, cookie) as verifier:
                    # The old key of cookies is not dropped: ours was made with it.
                    for purposes in (
                        *[["plane-authority", "assertion", "session-handle"]] * 2,
                        ["plane-authority", "assertion"],
                    ):
                        for purpose in purposes:
                            made.rotate(purpose)
                        elapse(made, "assertion")
                    until = max(item["certificate_expires_at"] for item in first) + 1
                    wait_for(lambda: time.time() > until, 40, what="the end of the first certificates")
                    shown = status(made)
                report("certificates, authority and keys change", checker)
                assert failed(checker.allowed.all) == 0
                assert shown["healthy"]
                last = {item["id"]: item for item in shown["processes"]}
                assert last.keys() == {item["id"] for item in first}, "a process was started again"
                for item in first:
                    now = last[item["id"]]
                    assert now["certificate_expires_at"] > until
                    assert set(now["keys"]["plane-authority"]).isdisjoint(item["keys"]["plane-authority"])
                assert verifier.failures == []
                assert len(set(verifier.ids)) == 2, "every assertion was verified, by the old key and by the new one"
                with made.client(1) as client:
                    assert [key.kid for key in published(client, made).keys] == [verifier.ids[-1]]
        finally:
            for process in keeper:
                process.terminate()
                process.wait()
