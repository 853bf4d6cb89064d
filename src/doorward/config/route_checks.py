"""What is legal but wrong about routes together: each of them may be sound alone."""

from collections.abc import Sequence

from doorward.config.settings import IdentityProviderSettings, RoutePolicy, TokenIssuerSettings
from doorward.policy import Facts, Policy, RequestFacts
from doorward.policy.access import PERSON, Reach, judge_access
from doorward.policy.checker import Known, check_known
from doorward.policy.criteria import BY_NAME
from doorward.policy.criteria.port import Fact
from doorward.policy.nodes import terms
from doorward.route.route import CertificateUse, Match, Route, broader
from doorward.source import Problem, Problems


class RouteChecks:
    """Records warnings about routes, and remembers them: a host whose routes are the same is looked at once."""

    def __init__(self) -> None:
        self._hosts: dict[str, tuple[list[RoutePolicy], tuple[Problem, ...]]] = {}
        self._policies: dict[int, tuple[Policy, tuple[Problem, ...]]] = {}
        self._known: Known | None = None

    def check(
        self, routes: Sequence[RoutePolicy], identity_providers: Sequence[IdentityProviderSettings], problems: Problems
    ) -> None:
        """Record warnings about ``routes``, which are in the order in which they match."""
        sound = [item for item in routes if item.route.broken is None]
        by_host: dict[str, list[RoutePolicy]] = {}
        for item in sound:
            by_host.setdefault(item.route.host, []).append(item)
        hosts: dict[str, tuple[list[RoutePolicy], tuple[Problem, ...]]] = {}
        for host, items in by_host.items():
            before = self._hosts.get(host)
            hosts[host] = before if before is not None and before[0] == items else (items, _of_host(items))
            problems.extend(hosts[host][1])
        self._hosts = hosts
        known = Known(email_domains=vouched_domains(identity_providers))
        if known != self._known:
            self._policies, self._known = {}, known
        if known.email_domains is not None:
            policies: dict[int, tuple[Policy, tuple[Problem, ...]]] = {}
            for item in sound:
                key = id(item.policy)
                if key not in policies:
                    policies[key] = self._policies.get(key) or (item.policy, _of_policy(item.policy, known))
                    problems.extend(policies[key][1])
            self._policies = policies


def _of_host(items: Sequence[RoutePolicy]) -> tuple[Problem, ...]:
    found = Problems()
    if len(items) > 1:
        _check_order(items, found)
        _check_public_neighbours(items, found)
    for item in items:
        if item.route.client_certificate is CertificateUse.IGNORED:
            _check_certificate(item, found)
    return found.all


def _of_policy(policy: Policy, known: Known) -> tuple[Problem, ...]:
    found = Problems()
    check_known(policy, known, found)
    return found.all


def vouched_domains(identity_providers: Sequence[IdentityProviderSettings]) -> frozenset[str] | None:
    """Every domain that an identity provider vouches for, or ``None`` when one of them is asked about all."""
    found: set[str] = set()
    for provider in identity_providers:
        if provider.email_domains is None:
            return None
        found |= provider.email_domains
    return frozenset(found) if identity_providers else None


def _check_order(items: Sequence[RoutePolicy], problems: Problems) -> None:
    """Routes whose requests are all taken by one before them."""
    earlier: dict[Match, Route] = {}
    for item in items:
        taker = next((earlier[match] for match in broader(item.route.match) if match in earlier), None)
        if taker is not None:
            problems.warning(
                item.policy.position,
                f"no request reaches `{item.route.name}`: `{taker.name}` takes all of them before it",
                "the first route that matches counts; put the narrower one first",
            )
        earlier.setdefault(item.route.match, item.route)


def _check_public_neighbours(items: Sequence[RoutePolicy], problems: Problems) -> None:
    """Open routes beside private ones: one origin, so what runs in the open part speaks for whoever visits it."""
    public = {item.route.id for item in items if _is_public(item)}
    private = [item for item in items if item.route.id not in public]
    if not private:
        return
    for item in items:
        if item.route.id in public:
            problems.warning(
                item.policy.position,
                f"`{item.route.name}` is open to everyone, and `{private[0].route.name}` on the same host is not",
                "scripts of the open part run with the rights of whoever visits it; give it a host of its own",
            )


def check_listed_issuers(
    routes: Sequence[RoutePolicy], issuers: tuple[TokenIssuerSettings, ...], problems: Problems
) -> None:
    """Record what routes list that is nobody, and what has no meaning without a list."""
    known = {item.id for item in issuers}
    for item in routes:
        for name in item.route.token_issuers:
            if name not in known:
                problems.error(
                    item.policy.position,
                    f"`{item.route.name}` lists the unknown token issuer `{name}`",
                    "`token_issuers`",
                )
        if item.route.pass_bearer and not item.route.token_issuers:
            problems.error(
                item.policy.position, f"`{item.route.name}` passes on tokens of nobody", "list `token_issuers`"
            )


def _check_certificate(item: RoutePolicy, problems: Problems) -> None:
    """A policy that looks at certificates where none is asked for."""
    if any(
        Fact.CLIENT_CERTIFICATE in BY_NAME[term.criterion].reads
        for rule in item.policy.rules
        for term in terms(rule.group)
    ):
        problems.warning(
            item.policy.position,
            f"the policy of `{item.route.name}` looks at the client's certificate, which this route ignores, so it is unknown",
            "add `client_certificate: fact`",
        )


def _is_public(item: RoutePolicy) -> bool:
    """Whether somebody who is not signed in may be let in, by some request."""
    request = RequestFacts(method="GET", host=item.route.host, path=item.route.match.value)
    facts = Facts(principal=None, request=request, now=0.0)
    return judge_access(item.policy, facts, PERSON).reach is not Reach.NO
