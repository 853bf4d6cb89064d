"""Kills parts of a split deployment under load, and counts what people notice.

Two proxies, two authorizers, an authenticate plane and a databroker, apart and with mutual TLS. Somebody who may keeps asking
through both proxies, over connections that stay open; nothing is asked again by the client, so every failure counts. Each event ends a
process (or stops it, for three seconds) and starts it again. The last line is JSON.

    bench/kills.py --kills 10 --victims authorize-1 authorize-2 --how kill
"""

import argparse
import asyncio
import json
import signal
import ssl
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from envoy_cases import static_server
from tests.support.deployment import free_port, short_folder
from tests.support.site import everyone, signed_in
from tests.support.split import Process, Split, split_deployment

ALICE = ("alice@example.com", "alice-demo")
AROUND_SECONDS = 1.0
"""Of load before an end, after it, and after the next beginning."""

STOPPED_SECONDS = 3.0
"""Longer than anybody waits for an answer."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=5, help="of each victim")
    arguments.add_argument("--victims", nargs="+", default=["authorize-1", "authorize-2"])
    arguments.add_argument("--connections", type=int, default=16, help="to each proxy")
    arguments.add_argument("--how", choices=["kill", "term", "stop"], default="kill")
    options = arguments.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        port = free_port()
        stack.enter_context(static_server(folder / "upstream", "/", b"ok\n", port))
        to = f"h2c://127.0.0.1:{port}"
        routes = [
            {"name": "open", "from": "open", "to": to, "policy": everyone()},
            {"name": "closed", "from": "closed", "to": to, "policy": signed_in()},
        ]
        made = stack.enter_context(split_deployment(folder, routes))
        print(json.dumps(asyncio.run(measure(made, options))))


@dataclass
class Answers:
    """How long each request took, and what came back; 0 for no answer."""

    seen: list[tuple[float, int]] = field(default_factory=list)
    stopping: bool = False


async def measure(made: Split, options: argparse.Namespace) -> dict[str, Any]:
    cookie = await asyncio.to_thread(_sign_in, made)
    answers = Answers()
    workers = [
        asyncio.create_task(ask(made, made.ports[f"proxy-{1 + number % 2}"], cookie, answers))
        for number in range(2 * options.connections)
    ]
    await asyncio.sleep(2)  # connections are open
    events = []
    print(f"{'event':20} {'requests':>8} {'failed':>7} {'slowest ms':>11}  statuses")
    for number in range(options.kills * len(options.victims)):
        process = made.processes[options.victims[number % len(options.victims)]]
        events.append(await _event(process, options.how, answers))
    answers.stopping = True
    await asyncio.gather(*workers)
    total, failed = sum(seen for seen, _ in events), sum(lost for _, lost in events)
    return {"kills": len(events), "requests": total, "failed": failed, "failed_ratio": round(failed / total, 6)}


async def _event(process: Process, how: str, answers: Answers) -> tuple[int, int]:
    """One end and the next beginning; how many requests there were from a second before it to a second after each, and how many failed."""
    answers.seen.clear()
    await asyncio.sleep(AROUND_SECONDS)
    if how == "stop":
        assert process.popen is not None
        process.popen.send_signal(signal.SIGSTOP)
        await asyncio.sleep(STOPPED_SECONDS - AROUND_SECONDS)
    else:
        await asyncio.to_thread(process.end, signal.SIGKILL if how == "kill" else signal.SIGTERM)
    await asyncio.sleep(AROUND_SECONDS)
    if how == "stop":
        process.popen.send_signal(signal.SIGCONT)
    else:
        await asyncio.to_thread(process.start)
    await asyncio.sleep(AROUND_SECONDS)
    seen = list(answers.seen)
    failed = sum(status != 200 for _, status in seen)
    slowest = max(took for took, _ in seen) * 1e3
    statuses = dict(Counter(status for _, status in seen))
    print(f"{how + ' ' + process.name:20} {len(seen):8} {failed:7} {slowest:11.0f}  {statuses}", flush=True)
    return len(seen), failed


async def ask(made: Split, port: int, cookie: str, answers: Answers) -> None:
    """One connection's requests, one after the other."""
    context = ssl.create_default_context(cafile=str(made.ca_file))
    host = f"closed.localhost:{made.public_port}"
    request = f"GET / HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\n\r\n".encode()
    reader = writer = None
    while not answers.stopping:
        began = time.perf_counter()
        status = 0
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=context, server_hostname="closed.localhost"
                )
            assert reader is not None
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            await reader.readexactly(_length(head))
        except (OSError, EOFError, ValueError):
            if writer is not None:
                writer.transport.abort()
            writer = None
        answers.seen.append((time.perf_counter() - began, status))
        await asyncio.sleep(0)
    if writer is not None:
        writer.transport.abort()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise ValueError("no length")


def _sign_in(made: Split) -> str:
    with made.client() as client:
        answer = client.sign_in(made.url("closed") + "/", *ALICE)
        assert answer.status_code == 200, answer.text
        return f"__Host-doorward={client.cookie('closed.localhost', '__Host-doorward')}"


if __name__ == "__main__":
    main()
