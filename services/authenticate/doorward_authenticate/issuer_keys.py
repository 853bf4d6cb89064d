"""Keeps the keys of trusted token issuers as records, so that no decision ever has to ask for them.

    lease ─► every minute, each issuer: metadata ─► key set ─► record, when it differs or has not been confirmed for an hour

Nothing that a caller sends makes us ask: a token with an unknown key is refused, and a rotated key is known a minute later. Concurrency:
one task; a second replica waits for the lease.
"""

import asyncio
import json
from collections.abc import Callable

import httpx
import structlog
from prometheus_client import CollectorRegistry, Counter

from doorward.clock import Clock
from doorward.config.settings import TokenIssuerSettings
from doorward.errors import ConflictError, DataCorruptedError, DoorwardError, NotFoundError
from doorward.identity.issuer_keys import RECORD_TYPE, IssuerKeys, issuer_keys_id, usable_keys
from doorward.records.client import RecordClient
from doorward.records.lease import hold_lease
from doorward.records.record import Fence, Record, Write
from doorward_authenticate.errors import ProviderUnavailableError
from doorward_authenticate.identity_providers.fetch import fetch_json
from doorward_authenticate.identity_providers.metadata import key_set_url

LEASE = "issuer-keys"
REFETCH_SECONDS = 60.0
CONFIRM_SECONDS = 3600.0
"""How often a record says anew that its keys are still the issuer's; well below how long keys are kept."""
_LEASE_SECONDS = 30.0
_WAIT_SECONDS = 5.0

_log = structlog.stdlib.get_logger(__name__)


class IssuerKeysKeeper:
    """Fetches and writes."""

    def __init__(
        self,
        records: RecordClient,
        client: httpx.AsyncClient,
        issuers: Callable[[], tuple[TokenIssuerSettings, ...]],
        clock: Clock,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._records = records
        self._client = client
        self._issuers = issuers
        self._clock = clock
        self._failures = Counter(
            "doorward_issuer_keys_failures",
            "Fetches of a token issuer's keys that failed, by issuer; the last keys count for a day.",
            ("issuer",),
            registry=registry,
        )

    async def run(self, holder: str) -> None:
        """Work whenever the lease can be had, until cancelled."""
        while True:
            try:
                if self._issuers():
                    async with hold_lease(self._records, LEASE, holder, _LEASE_SECONDS) as held:
                        await self._work(held.fence, held.lost)
            except ConflictError:
                pass  # somebody else does it
            except DoorwardError as error:
                _log.warning("cannot keep issuers' keys now", reason=str(error))
            await asyncio.sleep(_WAIT_SECONDS)

    async def _work(self, fence: Fence, lost: asyncio.Event) -> None:
        tried: dict[TokenIssuerSettings, float] = {}
        while not lost.is_set():
            now = self._clock.monotonic()
            due = [item for item in self._issuers() if now - tried.get(item, float("-inf")) >= REFETCH_SECONDS]
            tried.update(dict.fromkeys(due, now))
            await asyncio.gather(*(self.attend(issuer, fence) for issuer in due))
            await asyncio.sleep(1.0)

    async def attend(self, issuer: TokenIssuerSettings, fence: Fence | None = None) -> bool:
        """Fetch the keys of one issuer and write them if there is something to say; whether they were had.

        Raises:
            ConflictError: somebody else holds the lease by now.
            DoorwardError: the record cannot be read or written.
        """
        try:
            keys = await self._fetched(issuer)
        except ProviderUnavailableError as error:
            self._failures.labels(issuer.id).inc()
            _log.warning("a token issuer's keys cannot be had", issuer=issuer.id, reason=str(error))
            return False
        record_id = issuer_keys_id(issuer.issuer)
        now = self._clock.now()
        try:
            known = IssuerKeys.from_bytes((await self._records.get(RECORD_TYPE, record_id)).data)
        except (NotFoundError, DataCorruptedError):
            known = None
        if known is None or known.key_set != keys or not 0 <= now - known.confirmed_at < CONFIRM_SECONDS:
            found = IssuerKeys(issuer=issuer.issuer, key_set=keys, confirmed_at=now)
            await self._records.put(
                [Write(record=Record(type=RECORD_TYPE, id=record_id, data=found.to_bytes()))], fence
            )
            if known is None or known.key_set != keys:
                _log.info("a token issuer's keys have changed", issuer=issuer.id)
        return True

    async def _fetched(self, issuer: TokenIssuerSettings) -> bytes:
        """The issuer's key set, as it is stored: usable, and the same bytes for the same keys.

        Raises:
            ProviderUnavailableError: it cannot be had.
        """
        url = issuer.key_set_url
        if url is None:
            document = await self._document(f"{issuer.issuer.rstrip('/')}/.well-known/openid-configuration")
            url = key_set_url(document, issuer.issuer)
        document = await self._document(url)
        try:
            if not usable_keys(document):
                raise ProviderUnavailableError("the key set holds no usable key")
        except ValueError as error:
            raise ProviderUnavailableError(str(error)) from error
        return json.dumps({"keys": document["keys"]}, sort_keys=True).encode()

    async def _document(self, url: str) -> dict[str, object]:
        status, document = await fetch_json(self._client, "GET", url)
        if status != 200:
            raise ProviderUnavailableError(f"an answer of {status}")
        return document
