"""One file of a configuration in a hundred is saved: how long until every request is decided and served by it.

The real deployment (``doorward run``): readers, authorize, authenticate, proxy, Envoy. Two kinds of change: a policy, clocked from the
moment the file is replaced until a request is decided by it, and what a route sets, until Envoy serves it.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
from tests.support.deployment import Running, free_port, start
from tests.support.http_client import BrowserlessClient

from doorward.clock import SystemClock
from doorward.keys.local_authority import LocalAuthority

_DOMAIN = "bench.example"
_START_SECONDS = 240.0
_OPEN, _CLOSED = "accept: true", "reject: true"


class Folder:
    """The configuration: routes spread evenly over files, each as its last change left it."""

    def __init__(self, folder: Path, routes: int, files: int, port: int) -> None:
        self.config = folder / "config"
        (self.config / "routes.d").mkdir(parents=True)
        self._port = port
        self._per_file = routes // files
        self._state = [("g0", _OPEN)] * routes
        authority = LocalAuthority(folder / "authority", SystemClock())
        self.ca_file = authority.ca_file
        certified = authority.certificate_for([f"*.{_DOMAIN}"])
        (self.config / "tls.crt").write_bytes(certified.certificate_pem)
        (self.config / "tls.key").write_bytes(certified.key_pem)
        (self.config / "doorward.yaml").write_text(
            f"version: 1\nlisten: 127.0.0.1:{port}\nauthenticate_url: https://sign-in.{_DOMAIN}:{port}\n"
            "tls: {certificate: tls.crt, key: tls.key}\nroutes: []\n"
        )
        for file in range(files):
            self._write(file)

    def change(self, number: int, generation: str, policy: str) -> None:
        self._state[number] = (generation, policy)
        self._write(number // self._per_file)

    def url(self, number: int) -> str:
        return f"https://h{number}.{_DOMAIN}:{self._port}/"

    def _write(self, file: int) -> None:
        text = "".join(
            f"- name: r{number}\n  from: https://h{number}.{_DOMAIN}:{self._port}\n  to: http://127.0.0.1:9\n"
            f"  set_response_headers: {{x-generation: {generation}}}\n"
            f"  policy:\n    - allow:\n        or:\n          - {policy}\n          - user: nobody-{number}\n"
            for number in range(file * self._per_file, (file + 1) * self._per_file)
            for generation, policy in (self._state[number],)
        )
        path = self.config / "routes.d" / f"{file:03}.yaml"
        scratch = path.with_suffix(".new")
        scratch.write_text(text)
        scratch.replace(path)


def seconds_until(holds: Callable[[], bool]) -> float:
    began = time.monotonic()
    while not holds():
        time.sleep(0.002)
    return time.monotonic() - began


def cpu_seconds(running: Running) -> float:
    total = 0.0
    for process in running.members():
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def measure(routes: int, files: int, changes: int, folder: Path) -> dict[str, object]:
    made = Folder(folder, routes, files, free_port())
    began = time.monotonic()
    running = start(["run", "--config", str(made.config)], folder / "data", wait=_START_SECONDS)
    decided, served = [], []
    try:
        started = time.monotonic() - began
        with BrowserlessClient(made.ca_file) as client:

            def ask(number: int) -> httpx.Response:
                return client.request("GET", made.url(number))

            # Nobody listens behind these routes: Envoy's own 503 with the route's header says as well that it was let through.
            used = cpu_seconds(running)
            for change in range(changes):
                number = change * 7919 % routes
                made.change(number, "g0", _CLOSED)
                decided.append(seconds_until(lambda number=number: ask(number).status_code == 401))  # type: ignore[misc]
                wanted = f"g{change + 1}"
                made.change(number, wanted, _OPEN)
                served.append(
                    seconds_until(
                        lambda number=number, wanted=wanted: ask(number).headers.get("x-generation") == wanted
                    )  # type: ignore[misc]
                )
            used = cpu_seconds(running) - used
        memory = {name: running.member(name).memory_info().rss / 1e6 for name in ("authorize", "proxy", "envoy")}
    finally:
        running.stop()

    def at(times: list[float], share: float) -> float:
        return round(sorted(times)[min(len(times) - 1, int(len(times) * share))] * 1000, 1)

    return {
        "routes": routes,
        "files": files,
        "changes": changes,
        "start_s": round(started, 1),
        "decided_p50_ms": at(decided, 0.5),
        "decided_p99_ms": at(decided, 0.99),
        "served_p50_ms": at(served, 0.5),
        "served_p99_ms": at(served, 0.99),
        "cpu_ms_change": round(used * 1000 / changes / 2, 1),
        "rss_mb": {name: round(value, 1) for name, value in memory.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routes", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--changes", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.routes, arguments.files, arguments.changes, Path(folder))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
