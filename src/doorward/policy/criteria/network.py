"""``source_ip``: where the request comes from."""

import ipaddress
from functools import lru_cache
from typing import TypeAlias

from doorward.policy.criteria.families import absent_truth
from doorward.policy.criteria.port import Criterion, Fact, Finding, Key, Operand, Parameter, Several, Test
from doorward.policy.facts import Facts
from doorward.policy.nodes import Comparison, Term
from doorward.policy.truth import Truth

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


@lru_cache(maxsize=16_384)
def folded_address(text: str) -> tuple[int, int] | None:
    """Version and number of an address, IPv4-mapped ones as IPv4; ``None`` when ``text`` is none or has a zone."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        if address.ipv4_mapped is not None:
            return 4, int(address.ipv4_mapped)
    return address.version, int(address)


def folded_network(text: str) -> _Network:
    """The network that ``text`` names, IPv4-mapped ones as IPv4.

    Raises:
        ValueError: it is no address or network, or has bits set beyond its prefix.
    """
    try:
        network: _Network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"`{text}` is no address or network: expected `192.0.2.7` or `10.0.0.0/8`") from error
    if "%" in text:
        raise ValueError(f"`{text}` has a zone, which means something on one machine only")
    if ipaddress.ip_network(network).network_address != ipaddress.ip_interface(text).ip:
        raise ValueError(f"`{text}` has bits set beyond its prefix: write `{network}`")
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        inner = ipaddress.IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        return ipaddress.IPv4Network((inner, network.prefixlen - 96))
    return network


def _canonical(text: str) -> str:
    return str(folded_network(text))


def _canonical_ppl(text: str) -> str:
    """PPL takes a network by any address in it."""
    try:
        return str(folded_network(str(ipaddress.ip_network(text, strict=False))))
    except ValueError:
        return str(folded_network(text))


def _source(term: Term, facts: Facts) -> Finding:
    text = facts.request.client_address
    if text is None:
        return Finding(absent_truth(term), None)
    address = folded_address(text)
    if address is None:
        return Finding(Truth.UNKNOWN, text)
    holds = True
    for matcher in term.matchers:
        inside = any(_contains(folded_network(operand), address) for operand in matcher.operand)
        holds = holds and inside is (matcher.comparison in {Comparison.IS, Comparison.IN})
    return Finding(Truth.of(holds), text)


def _contains(network: _Network, address: tuple[int, int]) -> bool:
    version, number = address
    return network.version == version and int(network[0]) <= number <= int(network[-1])


def _prepare_source(term: Term) -> Test:
    absent = absent_truth(term)
    tables = tuple(
        (_table(matcher.operand), matcher.comparison in {Comparison.IS, Comparison.IN}) for matcher in term.matchers
    )

    def run(facts: Facts) -> Truth:
        text = facts.request.client_address
        if text is None:
            return absent
        address = folded_address(text)
        if address is None:
            return Truth.UNKNOWN
        version, number = address
        for table, wanted in tables:
            inside = False
            for shift, networks in table[version]:
                if number >> shift in networks:
                    inside = True
                    break
            if inside is not wanted:
                return Truth.FALSE
        return Truth.TRUE

    return run


def _table(networks: tuple[str, ...]) -> dict[int, tuple[tuple[int, frozenset[int]], ...]]:
    """For each version the networks by their length, so that thousands cost one look for each length."""
    found: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
    for text in networks:
        network = folded_network(text)
        shift = network.max_prefixlen - network.prefixlen
        found[network.version].setdefault(shift, set()).add(int(network.network_address) >> shift)
    return {
        version: tuple((shift, frozenset(numbers)) for shift, numbers in sorted(by_shift.items()))
        for version, by_shift in found.items()
    }


_KEY = Key(
    comparisons={
        Comparison.IN: Parameter(canonical=_canonical, ppl=_canonical_ppl, several=Several.SOME),
        Comparison.NOT_IN: Parameter(canonical=_canonical, ppl=_canonical_ppl, several=Several.SOME),
    },
    default=Comparison.IN,
)

SOURCE_IP = Criterion(
    name="source_ip",
    operand=Operand.KEYS,
    summary="Compares the client's address with addresses and networks; unknown when the address is not known.",
    detail=(
        "The address is what Envoy saw, or what a trusted proxy in front told it. An IPv4 address inside an IPv6 one "
        "(`::ffff:10.0.0.1`) counts as IPv4, also in networks. `::/0` is every IPv6 address and no IPv4 one."
    ),
    example="source_ip: [10.0.0.0/8, 2001:db8::/32]",
    cases="""
policy:
  - allow: {and: [{source_ip: [10.0.0.0/8, "2001:db8::7"]}]}
cases:
  - {request: {client_address: 10.1.2.3}, effect: allow, reasons: [source-ip-ok]}
  - {request: {client_address: "::ffff:10.1.2.3"}, effect: allow, reasons: [source-ip-ok]}
  - {request: {client_address: "2001:db8::8"}, effect: deny, reasons: [source-ip-unauthorized]}
  - {effect: deny, reasons: [source-ip-unknown]}
""",
    reads=frozenset({Fact.CLIENT_ADDRESS}),
    success="source-ip-ok",
    failure="source-ip-unauthorized",
    unknown="source-ip-unknown",
    keys={"": _KEY},
    in_ppl=True,
    prepare=_prepare_source,
    find=_source,
)
