"""The planes' authority changes in steps: trusted before it issues, trusted until nothing of it is shown any more."""

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from tests.support.fake_clock import FakeClock

from doorward.errors import ConfigurationError
from doorward.keys.plane_authority import PlaneAuthority, open_authority
from doorward.rpc.credentials import PlaneCertificate, read_certificate
from doorward.rpc.planes import Plane

LIFE = dt.timedelta(days=30)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def authority(tmp_path: Path, clock: FakeClock) -> PlaneAuthority:
    made = PlaneAuthority(tmp_path, clock)
    made.renew(tuple(Plane), LIFE)
    return made


def shown(tmp_path: Path, clock: FakeClock, plane: Plane = Plane.PROXY) -> PlaneCertificate:
    return read_certificate(tmp_path / plane, plane, clock.now())


def trusts(one: PlaneCertificate, other: PlaneCertificate) -> bool:
    leaf = x509.load_pem_x509_certificates(other.certificate_pem)[0]
    for found in x509.load_pem_x509_certificates(one.authorities_pem):
        try:
            leaf.verify_directly_issued_by(found)
        except InvalidSignature:
            continue
        return True
    return False


def test_planes_that_are_one_step_apart_trust_each_other_at_every_step(
    tmp_path: Path, clock: FakeClock, authority: PlaneAuthority
):
    before = shown(tmp_path, clock)
    [old] = authority.ids
    for step in (authority.add, authority.promote, authority.retire):
        step()
        assert {item.plane for item in authority.renew(tuple(Plane), None)} == set(Plane)
        after = shown(tmp_path, clock)
        assert trusts(before, after)
        assert trusts(after, before)
        before = after
    [new] = authority.ids
    assert new != old
    assert before.authority_ids == (new,)
    assert authority.renew(tuple(Plane), None) == []


def test_reports_name_the_issuer_first(tmp_path: Path, clock: FakeClock, authority: PlaneAuthority):
    [old] = authority.ids
    new = authority.add()
    assert authority.add() == new
    authority.renew(tuple(Plane), None)
    assert shown(tmp_path, clock).authority_ids == (old, new)
    assert authority.promote() == new
    authority.renew(tuple(Plane), None)
    assert shown(tmp_path, clock).authority_ids == (new, old)


def test_certificates_keep_their_life_through_a_change_of_authority(
    tmp_path: Path, clock: FakeClock, authority: PlaneAuthority
):
    authority.renew(tuple(Plane), dt.timedelta(days=3), all_of_them=True)
    authority.add()
    authority.renew(tuple(Plane), None)
    assert shown(tmp_path, clock).expires_at == pytest.approx(clock.now() + 3 * 86400, abs=2)


@pytest.mark.parametrize("which", ["issuing", "waiting", "earlier"])
def test_a_revoked_authority_is_trusted_by_nobody_and_another_one_issues(
    tmp_path: Path, clock: FakeClock, authority: PlaneAuthority, which: str
):
    [first] = authority.ids
    second = authority.add()
    if which == "earlier":
        authority.promote()
    dropped = second if which == "waiting" else first
    authority.revoke(dropped)
    authority.renew(tuple(Plane), None)
    assert authority.ids == [first if which == "waiting" else second]
    assert authority.next_id is None
    assert shown(tmp_path, clock).authority_ids == tuple(authority.ids)


def test_steps_that_are_not_due_are_refused(authority: PlaneAuthority):
    with pytest.raises(ConfigurationError, match="no authority waits"):
        authority.promote()
    assert authority.retire() == []
    with pytest.raises(ConfigurationError, match="no key `00000000`"):
        authority.revoke("00000000")


def test_the_only_authority_can_be_revoked(tmp_path: Path, clock: FakeClock, authority: PlaneAuthority):
    [old] = authority.ids
    authority.revoke(old)
    authority.renew(tuple(Plane), None)
    assert shown(tmp_path, clock).authority_ids == tuple(authority.ids) != (old,)


def test_a_promotion_that_was_interrupted_is_finished(tmp_path: Path, clock: FakeClock, authority: PlaneAuthority):
    new = authority.add()
    (tmp_path / "authority-next" / "authority.key").replace(tmp_path / "authority.key")
    with open_authority(tmp_path, clock) as again:
        assert again.ids[0] == new
        again.renew(tuple(Plane), None)
    assert shown(tmp_path, clock).authority_ids[0] == new


def test_an_authority_near_its_end_is_reported_and_not_replaced_by_itself(
    tmp_path: Path, clock: FakeClock, authority: PlaneAuthority
):
    """Planes would refuse each other until all have what the new one made."""
    before = authority.ids
    assert not authority.is_old
    clock.advance(800 * 86400)
    later = PlaneAuthority(tmp_path, clock)
    assert later.ids == before
    assert later.is_old
    clock.advance(30 * 86400)
    assert PlaneAuthority(tmp_path, clock).ids != before
