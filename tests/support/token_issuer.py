"""Somebody who issues signed tokens, good ones and every kind of bad one."""

import base64
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc import jws
from joserfc.jwk import ECKey, Key, RSAKey
from tests.support.threaded import serving

from doorward.identity.issuer_keys import RECORD_TYPE, IssuerKeys, issuer_keys_id

CI = "https://ci.example.net"


@dataclass
class TokenIssuer:
    """Signs with ES256 unless told otherwise."""

    issuer: str = CI
    key: Key = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "one", "alg": "ES256"}))
    others: tuple[Key, ...] = ()

    @property
    def key_set(self) -> bytes:
        """Its public keys."""
        return json.dumps({"keys": [key.as_dict(private=False) for key in (self.key, *self.others)]}).encode()

    def record(self, confirmed_at: float) -> tuple[tuple[str, str], bytes]:
        """Its keys as authenticate stores them: type and id, and payload."""
        keys = IssuerKeys(issuer=self.issuer, key_set=self.key_set, confirmed_at=confirmed_at)
        return (RECORD_TYPE, issuer_keys_id(self.issuer)), keys.to_bytes()

    def token(
        self, now: float, *, header: dict[str, object] | None = None, key: Key | None = None, **claims: object
    ) -> str:
        """A token for the audience `doorward`; a claim or header of ``None`` is left out."""
        payload = {"iss": self.issuer, "sub": "build-7", "aud": "doorward", "iat": now, "exp": now + 300, **claims}
        head: dict[str, object] = {"alg": "ES256", "kid": "one", **(header or {})}
        return _signed(
            {name: value for name, value in head.items() if value is not None},
            {name: value for name, value in payload.items() if value is not None},
            key or self.key,
        )


@contextmanager
def key_server(issuer: TokenIssuer) -> Iterator[TokenIssuer]:
    """Serve the issuer's metadata and keys on this machine; it gets its name from where it is served."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the base class's name
            metadata = {"issuer": issuer.issuer, "jwks_uri": f"{issuer.issuer}/keys"}
            page = issuer.key_set if self.path == "/keys" else json.dumps(metadata).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Pages)) as server:
        issuer.issuer = f"http://127.0.0.1:{server.server_port}"
        yield issuer


def symmetric_with_the_public_key(issuer: TokenIssuer, now: float) -> str:
    """A token signed with the public key as if it were a shared secret."""
    key = issuer.key
    assert isinstance(key, ECKey | RSAKey)
    text = issuer.token(now, header={"alg": "HS256"}, key=key).rpartition(".")[0]
    return f"{text}.{_base64(hmac.digest(key.as_pem(private=False), text.encode(), 'sha256'))}"


def _signed(head: dict[str, object], payload: dict[str, object], key: Key) -> str:
    """Without the library's care for what may be signed: the tests need what nobody should."""
    text = f"{_base64(json.dumps(head).encode())}.{_base64(json.dumps(payload).encode())}"
    if not isinstance(key, ECKey):
        return jws.serialize_compact(head, json.dumps(payload), key, algorithms=[str(head["alg"])])
    signature = key.private_key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))  # type: ignore[union-attr]
    first, second = decode_dss_signature(signature)
    return f"{text}.{_base64(first.to_bytes(32, 'big') + second.to_bytes(32, 'big'))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
