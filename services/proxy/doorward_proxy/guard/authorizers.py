"""Where the authorizers are, kept up with a file: the guard outlives changes of the configuration and reads none itself.

One address or socket a line. The proxy plane writes the file, and it is looked at every second.

Concurrency: belongs to one event loop.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc.aio
import structlog

from doorward.config.endpoints import Address, parse_address
from doorward.errors import ConfigurationError
from doorward.keys.private_file import write_private
from doorward_proxy.guard.link import AuthorizeLink

LOOK_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)


def write_authorizers(file: Path, places: Sequence[Address | Path]) -> None:
    """Tell the guard where to go from now on."""
    write_private(file, "".join(f"{place}\n" for place in places))


def read_authorizers(file: Path) -> tuple[Address | Path, ...]:
    """What ``write_authorizers`` wrote.

    Raises:
        ConfigurationError: something else, or nothing.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{file}: error: cannot be read: {error}"]) from error
    found = []
    for number, line in enumerate(lines, 1):
        place = Path(line) if line.startswith("/") else parse_address(line)
        if place is None:
            raise ConfigurationError([f"{file}:{number}:1: error: expected `host:port` or the path of a socket"])
        found.append(place)
    if not found:
        raise ConfigurationError([f"{file}:1:1: error: names no authorizer"])
    return tuple(found)


class Authorizers:
    """A channel to each authorizer, and the link that goes from one to the next."""

    def __init__(self, file: Path, link: AuthorizeLink, connect: Callable[[Address | Path], grpc.aio.Channel]) -> None:
        self._file = file
        self._link = link
        self._connect = connect
        self._channels: dict[Address | Path, grpc.aio.Channel] = {}
        self._left: list[grpc.aio.Channel] = []

    def look(self) -> None:
        """Take over what the file says now.

        Raises:
            ConfigurationError: it is not usable; what counted still counts.
        """
        wanted = read_authorizers(self._file)
        if set(wanted) == set(self._channels):
            return
        channels = {address: self._channels.get(address) or self._connect(address) for address in wanted}
        self._left += [channel for address, channel in self._channels.items() if address not in channels]
        self._channels = channels
        self._link.replace(list(channels.values()))
        _log.info("authorizers", places=[str(place) for place in channels])

    async def run(self) -> None:
        """Keep up with the file until cancelled."""
        reported = ""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                self.look()
                reported = ""
            except ConfigurationError as error:
                if str(error) != reported:
                    _log.error("the authorizers cannot be replaced", problem=str(error))
                reported = str(error)
            for channel in [channel for channel in self._left if not self._link.holds(channel)]:
                self._left.remove(channel)
                await channel.close(None)

    async def close(self) -> None:
        """Close every channel."""
        for channel in (*self._channels.values(), *self._left):
            await channel.close(None)
