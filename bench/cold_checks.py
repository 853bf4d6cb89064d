"""What a check costs when others have used the processor's caches before it: explains the cost beside Envoy. The last line is JSON.

One process, transport included: the frames of a call go into the connection of the server and the answer's bytes come out, with nothing sent
anywhere. Before each burst of checks as much memory is read as stands in the row; medians of many bursts, so that a busy machine
does not matter much.
"""

import asyncio
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from scale import configuration
from tests.unit.authorize.builders import World

from doorward.rpc import http2_frames as h2
from doorward.rpc.grpc_server import GrpcServer
from doorward.rpc.http2_connection import Connection
from doorward_authorize.main import COLLECT_AFTER
from doorward_authorize.snapshot import compile_snapshot
from doorward_authorize.transport import CHECK_METHOD, check_methods

READ_KILOBYTES = (0, 256, 1_024, 8_192, 65_536)
IN_A_ROW = (1, 4, 16)
BURSTS = 200


class Nowhere:
    """A transport that counts what is written."""

    written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def get_extra_info(self, _: str) -> None:
        return None


async def measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), configuration(1))
        world.evaluator.snapshot = compile_snapshot(world.read(configuration(10)), None, 0.0)
        cookie = world.sign_in("person", groups=frozenset({"team-0001-engineering"}), host="r1.example.com")
        server = GrpcServer(check_methods(world.checker, lambda: True))
        connection, transport = Connection(server), Nowhere()
        connection.connection_made(cast("asyncio.Transport", transport))
        greeting = h2.PREFACE + h2.settings({h2.INITIAL_WINDOW_SIZE: 2**30}) + h2.window_update(0, 2**30)
        connection.data_received(greeting + h2.frame(h2.SETTINGS, h2.ACK, 0))
        fields = [(":method", "POST"), (":scheme", "http"), (":path", CHECK_METHOD), (":authority", "x")]
        fields += [("content-type", "application/grpc"), ("te", "trailers")]
        block = h2.header_block([(name.encode(), value.encode()) for name, value in fields])
        number = 0

        def call() -> bytes:
            nonlocal number
            number += 1
            message = world.request("r1", cookie=cookie, x_request_id=str(number))
            stream = 2 * number - 1
            opening = b"\x20" + block if number == 1 else block
            prefixed = b"\0" + len(message).to_bytes(4, "big") + message
            return h2.frame(h2.HEADERS, h2.END_HEADERS, stream, opening) + h2.frame(
                h2.DATA, h2.END_STREAM, stream, prefixed
            )

        report: dict[str, Any] = {}
        for kilobytes in READ_KILOBYTES:
            others = bytes(kilobytes * 1024)
            for count in IN_A_ROW:
                took = []
                for _ in range(BURSTS):
                    calls = [call() for _ in range(count)]
                    before = transport.written
                    others.find(b"\1")
                    began = time.perf_counter()
                    for data in calls:
                        connection.data_received(data)
                    took.append((time.perf_counter() - began) / count * 1e6)
                    assert transport.written > before
                    await asyncio.sleep(0)
                report[f"after_{kilobytes}_kb_{count}_in_a_row_us"] = round(statistics.median(took), 1)
            row = [f"{report[f'after_{kilobytes}_kb_{count}_in_a_row_us']:8.1f}" for count in IN_A_ROW]
            print(f"{kilobytes:>7} KB read before {' '.join(row)} µs a check, {IN_A_ROW} in a row")
        return report


def main() -> None:
    gc.set_threshold(*COLLECT_AFTER)
    print(json.dumps(asyncio.run(measure())))


if __name__ == "__main__":
    main()
