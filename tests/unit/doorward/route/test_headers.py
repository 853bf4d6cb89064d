"""Which headers no client may send because some route sets them."""

from dataclasses import replace

from tests.unit.doorward.route.test_route import ROUTE

from doorward.route.header_template import parse_template
from doorward.route.headers import told_by, told_headers


def told(**fields: object) -> frozenset[str]:
    groups = {group for route in (ROUTE, replace(ROUTE, **fields)) for group in told_by(route)}  # type: ignore[arg-type]
    return told_headers(groups)


def test_they_are_those_of_every_kind_and_of_broken_routes_too():
    assert told() == frozenset()
    assert told(set_request_headers=(("X-Static", "1"),)) == {"x-static"}
    assert told(claim_headers=(("x-who", "email"),), broken="for the test") == {"x-who"}
    assert told(request_templates=(("x-token", parse_template("${user}")),)) == {"x-token"}


def test_what_the_check_reads_and_what_is_no_name_are_not_among_them():
    assert (
        told(set_request_headers=(("Authorization", "1"), ("origin", "1"), ("x a", "1"), ("x_a", "1"))) == frozenset()
    )
