"""One route changed among thousands: how long until Envoy serves it.

The real publisher, gate, discovery service and Envoy; checks are answered by a stand-in that always allows. Clocked from the moment
the changed settings are handed over until a request is answered in the new way.
"""

import argparse
import asyncio
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil
from tests.support import envoy
from tests.support.deployment import free_port
from tests.support.envoy import SIGN_IN_HOST, EchoUpstream, RunningProxy, route, running_proxy, settings_of

from doorward.clock import SystemClock
from doorward.config.settings import TlsSettings
from doorward.keys.local_authority import LocalAuthority


async def served(proxy: RunningProxy, host: str, wanted: str) -> None:
    while True:
        answer = await proxy.get("/", host=host)
        if answer.status == 200 and f"x-generation: {wanted}".encode() in answer.data.lower():
            return
        await asyncio.sleep(0.002)


envoy.READY_SECONDS = 180.0  # ten thousand hosts take their time to start with


async def measure(hosts: int, changes: int, folder: Path) -> dict[str, object]:
    upstream = EchoUpstream(free_port())
    async with upstream.running():
        to = (("http", "127.0.0.1", upstream.port),)

        def routed(number: int, generation: str) -> object:
            return route(f"h{number}.localhost", to=to, set_response_headers=(("x-generation", generation),))

        routes = [routed(number, "g0") for number in range(hosts)]
        began = time.monotonic()
        # As an operator of so many hosts has it: not one certificate that names them all.
        authority = LocalAuthority(folder, SystemClock())
        certified = authority.certificate_for([SIGN_IN_HOST])
        (folder / "tls.crt").write_bytes(certified.certificate_pem)
        (folder / "tls.key").write_bytes(certified.key_pem)
        tls = TlsSettings(certificate_file=folder / "tls.crt", key_file=folder / "tls.key")
        async with running_proxy(settings_of(*routes, generation="g0", tls=tls)) as proxy:  # type: ignore[arg-type]
            proxy.ca_file = authority.ca_file
            started = time.monotonic() - began
            times = []
            for change in range(changes):
                number = change * 7919 % hosts
                generation = f"g{change + 1}"
                routes[number] = routed(number, generation)
                settings = dataclasses.replace(proxy.settings, generation=generation, routes=tuple(routes))
                proxy.authorizer.generation = generation
                began = time.monotonic()
                proxy.plane.publisher.submit(settings)
                await served(proxy, f"h{number}.localhost", generation)
                times.append((time.monotonic() - began) * 1000)
                proxy.settings = settings
            pid = proxy.plane.envoy.pid
            assert pid is not None
            memory = psutil.Process(pid).memory_info().rss / 1e6
    times.sort()
    return {
        "hosts": hosts,
        "changes": changes,
        "start_s": round(started, 1),
        "change_p50_ms": round(times[len(times) // 2], 1),
        "change_p99_ms": round(times[min(len(times) - 1, int(len(times) * 0.99))], 1),
        "envoy_rss_mb": round(memory, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(arguments.hosts, arguments.changes, Path(folder)))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
