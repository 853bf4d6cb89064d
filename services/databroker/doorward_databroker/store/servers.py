"""Where the store's servers are, and which of them takes writes.

    redis://host:port, rediss://…, unix:///path         one server
    redis+sentinel://host:port,host:port/service        whatever the sentinels name as the service's primary
    redis+cluster://host:port,host:port                 the primary of our one slot

Cluster means that a deployment runs on one, in one slot, not that it is spread over it. So there is always exactly one server
to talk to, found here and found again after it has failed, moved or become a replica.
"""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from doorward.errors import ConfigurationError, UnavailableError
from doorward.keys.secret import Secret
from doorward_databroker.store.wire import Wire

ANSWER_SECONDS = 2.0
CONNECT_SECONDS = 1.0
OTHERS_SECONDS = 0.5
"""How long the other sentinels are waited for once one has named a primary."""
CONNECTIONS = 64
"""Most connections to the server at once, and as many again for reading the feed."""
_PORT = 6379
_SENTINEL_PORT = 26379
_NO_EPOCH = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How to be let in."""

    username: str | None = None
    password: Secret[str] | None = None
    ca_file: Path | None = None
    """Trust for ``rediss``; ``None`` means the system's."""
    certificate_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The addresses of a store."""

    kind: str
    """``node``, ``sentinel`` or ``cluster``."""
    nodes: tuple[tuple[str, int], ...] = ()
    socket: Path | None = None
    service: str = ""
    tls: bool = False
    database: int = 0
    credentials: Credentials = Credentials()

    @classmethod
    def parse(cls, url: str, credentials: Credentials | None = None) -> "Servers":
        """The servers that ``url`` names; user and password in it win over ``credentials``.

        Raises:
            ConfigurationError: it names none.
        """
        given = credentials or Credentials()
        scheme, separator, rest = url.partition("://")
        base, _, kind = scheme.partition("+")
        if not separator or base not in {"redis", "rediss", "unix"} or kind not in {"", "sentinel", "cluster"}:
            raise ConfigurationError(
                [f"error: `{scheme}` is no kind of store (redis, rediss, unix, …+sentinel, …+cluster)"]
            )
        if base == "unix":
            return cls(kind="node", socket=Path(rest), credentials=given)
        authority, _, path = rest.partition("/")
        login, at, hosts = authority.rpartition("@")
        if at:
            user, _, password = login.partition(":")
            given = Credentials(
                username=unquote(user) or None,
                password=Secret(unquote(password)) if password else None,
                ca_file=given.ca_file,
                certificate_file=given.certificate_file,
                key_file=given.key_file,
            )
        nodes = tuple(_node(host, _SENTINEL_PORT if kind == "sentinel" else _PORT) for host in hosts.split(","))
        if kind == "sentinel" and not path:
            raise ConfigurationError(["error: a store behind sentinels needs the service's name (…/name)"])
        if not kind and (len(nodes) != 1 or not (path or "0").isdecimal()):
            raise ConfigurationError(["error: one server is `redis://host:port` or `redis://host:port/database`"])
        return cls(
            kind=kind or "node",
            nodes=nodes,
            service=path if kind == "sentinel" else "",
            tls=base == "rediss",
            database=int(path or 0) if not kind else 0,
            credentials=given,
        )

    def client(self, address: tuple[str, int], *, login: bool = True) -> Redis:
        """The library's client for one server, for asking where the primary is."""
        options: dict[str, Any] = {
            "protocol": 3,
            "legacy_responses": False,
            "decode_responses": False,
            "socket_timeout": ANSWER_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            "health_check_interval": 0,
            # Greetings that an ACL user need not be allowed to send.
            "driver_info": None,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        if login and self.credentials.password is not None:
            options |= {"username": self.credentials.username, "password": self.credentials.password.reveal()}
        if self.tls:
            options |= {
                "ssl": True,
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": True,
                "ssl_min_version": ssl.TLSVersion.TLSv1_2,
                "ssl_ca_certs": _text(self.credentials.ca_file),
                "ssl_certfile": _text(self.credentials.certificate_file),
                "ssl_keyfile": _text(self.credentials.key_file),
            }
        return Redis(host=address[0], port=address[1], **options)

    async def connect(self, address: tuple[str, int] | None) -> Wire:
        """A connection to one server, after the greetings.

        Raises:
            OSError: it cannot be reached, or shows the wrong certificate.
            RedisError: it does not let us in.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_SECONDS):
            if address is None:
                _, wire = await loop.create_unix_connection(Wire, str(self.socket))
            elif self.tls:
                _, wire = await loop.create_connection(Wire, *address, ssl=self._tls(), server_hostname=address[0])
            else:
                _, wire = await loop.create_connection(Wire, *address)
        hello: list[Any] = ["HELLO", 3]
        if self.credentials.password is not None:
            hello += ["AUTH", self.credentials.username or "default", self.credentials.password.reveal()]
        greetings = [hello, ["SELECT", self.database]] if self.database else [hello]
        for answer in await wire.exchange(greetings, ANSWER_SECONDS):
            if isinstance(answer, Exception):
                wire.abort()
                raise answer
        return wire

    def _tls(self) -> ssl.SSLContext:
        """As ``client`` has it; made anew for each connection, since certificates are renewed."""
        context = ssl.create_default_context(cafile=_text(self.credentials.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.credentials.certificate_file is not None:
            context.load_cert_chain(self.credentials.certificate_file, self.credentials.key_file)
        return context

    async def primary(self, first: int = 0) -> tuple[str, int] | None:
        """The server that takes writes now; ``None`` for the one on a socket.

        All are asked at once, and of what they say the newest counts: whoever is cut off together with a primary that has been
        replaced goes on naming it. Among those that are equally new, ``first`` says who is believed. It should be another one
        after a primary has failed.

        Raises:
            UnavailableError: nobody can say.
        """
        if self.kind == "node":
            return self.nodes[0] if self.nodes else None
        start = first % max(1, len(self.nodes))
        asked = [asyncio.create_task(self._word_of(node)) for node in (*self.nodes[start:], *self.nodes[:start])]
        try:
            words = await _heard(asked)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        named = [word for word in words if word.primary is not None]
        if not named:
            reason = words[-1].reason if words else "no server named"
            raise UnavailableError(f"the store's primary cannot be found: {reason}")
        return max(named, key=lambda word: word.epoch).primary  # the first one of the newest

    async def _word_of(self, node: tuple[str, int]) -> "_Word":
        client = self.client(node, login=self.kind == "cluster")
        try:
            found = await (self._ask_sentinel(client) if self.kind == "sentinel" else self._ask_cluster(client))
        except (RedisError, OSError, ValueError, LookupError, TypeError) as error:
            return _Word(reason=type(error).__name__)
        finally:
            await client.aclose()
        return found or _Word(reason=f"`{node[0]}:{node[1]}` knows no primary")

    async def _ask_sentinel(self, client: Any) -> "_Word | None":
        # The epoch first: it may learn of a failover in between, and the old primary must never come with the new epoch.
        try:
            epoch = _epoch_in(await client.execute_command("SENTINEL", "MASTER", self.service))
        except (ResponseError, ValueError, LookupError, TypeError):
            epoch = _NO_EPOCH  # it may not be asked that; what it names is better than nothing
        answer = await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        if answer is None:
            return None
        return _Word((_text_of(answer[0]), int(answer[1])), epoch)

    async def _ask_cluster(self, client: Any) -> "_Word | None":
        slot = key_slot(b"{dw}")
        for shard in await client.execute_command("CLUSTER", "SLOTS"):
            if int(shard[0]) <= slot <= int(shard[1]):
                return _Word((_text_of(shard[2][0]), int(shard[2][1])))
        return None


@dataclass(frozen=True, slots=True)
class _Word:
    """What a sentinel or node says."""

    primary: tuple[str, int] | None = None
    epoch: int = _NO_EPOCH
    """Grows with each failover, and is given by the majority that agrees to one: by it sentinels settle which of them is right."""
    reason: str = ""
    """Why it names none."""


async def _heard(asked: Sequence["asyncio.Task[_Word]"]) -> list[_Word]:
    """The answers in order; when one names a primary, the others get a moment more, for one may hang or be cut off from us."""
    waiting = set(asked)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if any(task.result().primary is not None for task in done):
            await asyncio.wait(asked, timeout=OTHERS_SECONDS)
            break
    return [task.result() for task in asked if task.done()]


def _epoch_in(answer: Any) -> int:
    """The epoch in what a sentinel says of a primary: pairs, which RESP3 may give as a mapping."""
    pairs = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
    return next(int(value) for name, value in pairs if _text_of(name) == "config-epoch")


def _node(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise ConfigurationError([f"error: `{text[:64]}` is no host and port"])
    return host, port or default_port


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _text_of(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
