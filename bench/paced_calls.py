"""Runs ``paced_calls.c``: unary calls on a Unix socket whose clock starts beside the socket, not in an interpreter."""

import array
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from doorward.rpc import http2_frames as h2

PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds until an answer had been read, in the order of the answers, which is nearly that of the calls."""

    from_due: list[float]
    """Counted from when the call should have been sent: what waits in the client's own queue is not hidden."""
    from_written: list[float]
    """Counted from when the call stood on the socket."""


class PacedCalls:
    """The compiled client."""

    def __init__(self, folder: Path) -> None:
        """Raises SystemExit where there is no C compiler."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise SystemExit(
                "no C compiler: the client of this measurement is written in C (on Debian: apt-get install gcc libc6-dev)"
            )
        self._program = folder / "paced_calls"
        source = Path(__file__).with_suffix(".c")
        subprocess.run([compiler, "-O2", "-std=c11", "-Wall", "-Wextra", "-o", self._program, source], check=True)

    def start(self, socket: Path, path: str, body: bytes, rate: int, count: int) -> "Running":
        """Begin ``count`` calls of ``path``, ``rate`` a second; 0 is as fast as they are answered, 32 at once."""
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")]
        fields += [("content-type", "application/grpc"), ("te", "trailers")]
        block = h2.header_block([(name.encode(), value.encode()) for name, value in fields])
        message = b"\0" + len(body).to_bytes(4, "big") + body
        opening = h2.PREFACE + h2.settings({h2.INITIAL_WINDOW_SIZE: 2**30}) + h2.window_update(0, 2**30)
        opening += h2.frame(h2.SETTINGS, h2.ACK, 0)
        # As Envoy does: the server asked for no table of headers, and the first block says that there is none (RFC 7541, section 6.3).
        opening += h2.frame(h2.HEADERS, h2.END_HEADERS, 1, b"\x20" + block)
        opening += h2.frame(h2.DATA, h2.END_STREAM, 1, message)
        parts = (opening, block, message)
        process = subprocess.Popen(
            [self._program, str(socket), str(rate), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(b"".join(len(part).to_bytes(4, "big") + part for part in parts))
        process.stdin.close()
        process.stdin = None
        return Running(process)

    def saturated(self, socket: Path, path: str, body: bytes, count: int) -> float:
        """Calls a second when 32 are always under way."""
        began = time.perf_counter()
        self.start(socket, path, body, 0, count).times()
        return count / (time.perf_counter() - began)


class Running:
    """Calls that are being made."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def times(self) -> Times:
        """Wait for the end. Raises SystemExit when a call failed or was not answered."""
        output, _ = self.process.communicate()
        if self.process.returncode:
            raise SystemExit("the client in C gave up")
        pairs = array.array("I", output)
        return Times([ns / 1e9 for ns in pairs[0::2]], [ns / 1e9 for ns in pairs[1::2]])
