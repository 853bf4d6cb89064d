from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.support.fake_clock import FakeClock

from doorward.config.endpoints import Address
from doorward.errors import ConfigurationError
from doorward_proxy.guard.authorizers import Authorizers, read_authorizers, write_authorizers
from doorward_proxy.guard.link import AuthorizeLink
from doorward_proxy.guard.metrics import GuardMetrics
from doorward_proxy.guard.streams import Streams

SOCKET = Path("/run/doorward/authorize.sock")
FIRST, SECOND = Address(host="10.0.0.5", port=7712), Address(host="fd00::6", port=7712)


class FakeChannel:
    def __init__(self, address: Address | Path) -> None:
        self.address = address
        self.closed = False

    async def close(self, grace: float | None = None) -> None:
        del grace
        self.closed = True


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "guard.authorizers"


def test_what_is_written_is_read(file: Path):
    for addresses in ((SOCKET,), (FIRST,), (FIRST, SECOND, SOCKET)):
        write_authorizers(file, addresses)
        assert read_authorizers(file) == addresses
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"10.0.0.5\n", r":1:1: error: expected `host:port`"),
        (b"10.0.0.5:7712\n\n", r":2:1: error"),
        (b"10.0.0.5:77120\n", r":1:1: error"),
        (b"\xff\xfe", "cannot be read"),
        (b"run/authorize.sock\n", r":1:1: error"),
        (b"", "names no authorizer"),
    ],
)
def test_what_is_no_list_of_addresses_is_refused(file: Path, content: bytes, said: str):
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=said):
        read_authorizers(file)


def test_a_missing_file_is_an_error(file: Path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_authorizers(file)


async def test_a_change_keeps_what_stays_and_a_bad_one_changes_nothing(file: Path):
    clock, metrics = FakeClock(), GuardMetrics(CollectorRegistry())
    link = AuthorizeLink([], Streams(clock, metrics, 10), clock, metrics)
    made: list[FakeChannel] = []

    def connect(address: Address | Path) -> FakeChannel:
        made.append(FakeChannel(address))
        return made[-1]

    authorizers = Authorizers(file, link, connect)  # type: ignore[arg-type]  # has what is used
    write_authorizers(file, [SOCKET])
    authorizers.look()
    assert [channel.address for channel in made] == [SOCKET]
    write_authorizers(file, [FIRST])
    authorizers.look()
    write_authorizers(file, [SECOND, FIRST])
    authorizers.look()
    assert [channel.address for channel in made] == [SOCKET, FIRST, SECOND]
    assert link._channels == [made[2], made[1]]
    file.write_text("somewhere\n")
    with pytest.raises(ConfigurationError):
        authorizers.look()
    assert link._channels == [made[2], made[1]]
    await authorizers.close()
    assert all(channel.closed for channel in made)
