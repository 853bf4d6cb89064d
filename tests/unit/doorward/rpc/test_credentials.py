"""A plane starts with a certificate that is its own and in force, or says what is wrong with it."""

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.fake_clock import FakeClock
from tests.support.planes import Planes, odd_certificate

from doorward.config.endpoints import Address
from doorward.errors import ConfigurationError
from doorward.keys.plane_authority import plane_of_uris, plane_uri
from doorward.rpc.client import target_of
from doorward.rpc.credentials import read_certificate
from doorward.rpc.planes import Plane, contract_of


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> Planes:
    return Planes(tmp_path_factory.mktemp("planes"))


def test_a_planes_own_certificate_is_taken(planes: Planes):
    found = read_certificate(planes.folder / "proxy", Plane.PROXY, time.time())
    assert found.expires_at > time.time() + 86400


def _expired(planes: Planes, folder: Path) -> Path:
    return odd_certificate(folder, planes.folder, [plane_uri("proxy")], now=time.time() - 7200)


def _not_yet(planes: Planes, folder: Path) -> Path:
    return odd_certificate(folder, planes.folder, [plane_uri("proxy")], now=time.time() + 7200)


def _foreign(planes: Planes, folder: Path) -> Path:
    made = odd_certificate(folder, folder / "foreign", [plane_uri("proxy")])
    (made / "ca.crt").write_bytes((planes.folder / "authority.crt").read_bytes())
    return made


def _several(planes: Planes, folder: Path) -> Path:
    return odd_certificate(folder, planes.folder, [plane_uri("proxy"), plane_uri("operator")])


def _nobody(planes: Planes, folder: Path) -> Path:
    return odd_certificate(folder, planes.folder, ["https://proxy.example"])


def _other_key(planes: Planes, folder: Path) -> Path:
    made = odd_certificate(folder, planes.folder, [plane_uri("proxy")])
    (made / "tls.key").write_bytes((planes.folder / "operator" / "tls.key").read_bytes())
    return made


def _readable(planes: Planes, folder: Path) -> Path:
    made = odd_certificate(folder, planes.folder, [plane_uri("proxy")])
    (made / "tls.key").chmod(0o644)
    return made


def _damaged(planes: Planes, folder: Path) -> Path:
    made = odd_certificate(folder, planes.folder, [plane_uri("proxy")])
    (made / "tls.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return made


def _missing(planes: Planes, folder: Path) -> Path:
    made = odd_certificate(folder, planes.folder, [plane_uri("proxy")])
    (made / "ca.crt").unlink()
    return made


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda planes, _: planes.folder / "authorize", "the plane `authorize`, and this is `proxy`"),
        (_expired, r"expired at .* \(doorward keys renew\)"),
        (_not_yet, "is the clock right"),
        (_foreign, "not issued by an authority"),
        (_several, "names no plane"),
        (_nobody, "names no plane"),
        (_other_key, "not the key of"),
        (_readable, "others may read"),
        (_damaged, "not a PEM certificate"),
        (_missing, r"ca\.crt: error: cannot be read"),
        (lambda planes, _: planes.folder / "nowhere", "keys init --planes"),
    ],
    ids=["another plane's", "expired", "not yet", "foreign", "several", "nobody's", "key", "readable", "damaged",
         "no authorities", "none"],
)  # fmt: skip
def test_a_bad_certificate_is_named(planes: Planes, tmp_path: Path, make: Callable[[Planes, Path], Path], said: str):
    folder = make(planes, tmp_path / "proxy")
    with pytest.raises(ConfigurationError, match=said):
        read_certificate(folder, Plane.PROXY, time.time())


def test_a_replacement_is_taken_over_and_a_bad_one_is_not(planes: Planes, tmp_path: Path):
    folder = odd_certificate(tmp_path / "proxy", planes.folder, [plane_uri("proxy")])
    identity = planes.identity(Plane.PROXY, folder)
    heard: list[float] = []
    identity.subscribe(lambda found: heard.append(found.expires_at))
    first = identity.current
    identity.look()
    assert heard == []
    odd_certificate(folder, planes.folder, [plane_uri("proxy")], life=7200)
    identity.look()
    assert heard == [identity.current.expires_at]
    assert identity.current != first
    second = identity.current
    odd_certificate(folder, planes.folder, [plane_uri("databroker")])
    with pytest.raises(ConfigurationError):
        identity.look()
    assert identity.current == second


def test_certificates_are_renewed_at_two_thirds_of_their_life(tmp_path: Path):
    clock = FakeClock()
    made = Planes(tmp_path / "planes", clock, dt.timedelta(seconds=30))
    again = made.authority.renew
    clock.advance(19)
    assert again(tuple(Plane), made.life) == []
    clock.advance(2)
    assert [item.plane for item in again(tuple(Plane), made.life)] == list(Plane)
    (made.folder / "proxy" / "tls.crt").write_text("damaged")
    assert [item.plane for item in again(tuple(Plane), made.life)] == ["proxy"]


@pytest.mark.parametrize(
    ("uris", "plane"),
    [
        (["doorward://plane/proxy"], "proxy"),
        (["doorward://plane/proxy", "https://x"], "proxy"),
        (["doorward://plane/proxy", "doorward://plane/authorize"], None),
        (["https://plane/proxy"], None),
        (["doorward://plane"], None),
        (["doorward://gateway/edge"], "gateway/edge"),
        (["doorward://gateway/edge", "doorward://gateway/mesh"], None),
        (["doorward://gateway/edge", "doorward://plane/proxy"], None),
        (["doorward://plane/gateway/edge"], None),
        (["doorward://gateway/a/b"], None),
        (["doorward://gateway"], None),
        ([], None),
    ],
)
def test_a_certificate_names_one_plane_or_none(uris: list[str], plane: str | None):
    assert plane_of_uris(uris) == plane


def test_addresses_become_targets():
    one, other = Address(host="10.0.0.1", port=1), Address(host="10.0.0.2", port=2)
    assert target_of((one, other)) == "ipv4:10.0.0.1:1,10.0.0.2:2"
    assert target_of((Address(host="::1", port=1),)) == "ipv6:[::1]:1"
    assert target_of((Address(host="records.internal", port=1),)) == "dns:///records.internal:1"
    for addresses in (
        (one, Address(host="::1", port=1)),
        (Address(host="a", port=1), Address(host="b", port=1)),
        (one, Address(host="b", port=1)),
    ):
        with pytest.raises(ConfigurationError, match="one family, or one name"):
            target_of(addresses)


@pytest.mark.parametrize(
    ("agent", "contract"),
    [
        ("doorward/0.1.0 contract/1 grpc-python-asyncio/1.85", 1),
        ("doorward/9.9.9 contract/70", 70),
        ("grpc-python/1.85", None),
        ("doorward/1 contract/x", None),
        ("", None),
    ],
)
def test_the_contract_stands_in_the_user_agent(agent: str, contract: int | None):
    assert contract_of(agent) == contract
