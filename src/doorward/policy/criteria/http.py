"""Criteria about the request: its method, path, host, headers and query, and whether it is a preflight.

There is none about its body, which is never read: a policy that could depend on it would decide by a part of it.
"""

import re
from urllib.parse import unquote

from doorward.policy.criteria.families import UNREADABLE, Unreadable, string_forms, string_key
from doorward.policy.criteria.matching import WHOLE_VALUE, match_string, string_test, truth_of
from doorward.policy.criteria.port import Criterion, Fact, Finding, Operand, Test
from doorward.policy.facts import Facts
from doorward.policy.nodes import Term
from doorward.policy.truth import Truth

_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}\Z", re.ASCII)
_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "doorward-authorization", "set-cookie"})
_PREFLIGHT_HEADERS = ("origin", "access-control-request-method")
_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\Z", re.ASCII)
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})", re.ASCII)


def _method(term: Term, facts: Facts) -> Finding:
    method = facts.request.method
    return Finding(truth_of(match_string(term.matchers, method)), method)


def _prepare_method(term: Term) -> Test:
    test = string_test(term.matchers)
    return lambda facts: Truth.TRUE if test(facts.request.method) else Truth.FALSE


def _path(term: Term, facts: Facts) -> Finding:
    path = facts.request.path
    return Finding(truth_of(match_string(term.matchers, path, ignore_case=term.ignore_case)), path)


def _prepare_path(term: Term) -> Test:
    test = string_test(term.matchers, ignore_case=term.ignore_case)
    return lambda facts: Truth.TRUE if test(facts.request.path) else Truth.FALSE


def _header_name(text: str) -> str:
    name = text.lower()
    if not _HEADER_NAME.match(name):
        raise ValueError(f"`{text}` is no header name")
    if name in _SECRET_HEADERS:
        raise ValueError(f"`{name}` holds secrets, which no policy may compare")
    if name.startswith(("x-doorward-", "x-envoy-")):
        raise ValueError(f"`{name}` is not the client's to set")
    return name


def _header(facts: Facts, name: str) -> str | Unreadable | None:
    """The header's value, unless servers may differ about it.

    That is: there are two different ones; it begins or ends with a blank, which some keep and some drop; or it holds bytes
    beyond ASCII, which some take for Latin-1 and some for UTF-8 (RFC 9110, section 5.5). Nor is there one to compare where nobody
    has told whether it was sent.
    """
    values = facts.request.headers.get(name)
    if not values:
        return None if _is_told(facts, name) else UNREADABLE
    value = values[0]
    if len(values) > 1 and len(set(values)) > 1:
        return UNREADABLE
    return value if value.isascii() and value == value.strip() else UNREADABLE


def _is_told(facts: Facts, name: str) -> bool:
    """Whether a header that is not there was not sent."""
    known = facts.request.known_headers
    return known is None or name in known


def query_value(query: str, name: str) -> str | Unreadable | None:
    """The decoded value of a query parameter; ``UNREADABLE`` when servers may differ about it.

    That is: it stands there with two values, an escape is no escape or no UTF-8, or the query holds a ``;``, which some
    servers take for ``&``.
    """
    if not query:
        return None
    if ";" in query or _BAD_ESCAPE.search(query):
        return UNREADABLE
    found: set[str] = set()
    try:
        for part in query.split("&"):
            key, _, value = part.partition("=")
            if unquote(key.replace("+", " "), errors="strict") == name:
                found.add(unquote(value.replace("+", " "), errors="strict"))
    except UnicodeDecodeError:
        return UNREADABLE
    if not found:
        return None
    return found.pop() if len(found) == 1 else UNREADABLE


def _host_name(text: str) -> str:
    name = text.lower()
    if not _HOST.match(name):
        raise ValueError(f"`{text}` can never match: expected a host name without port, such as `app.example.com`")
    return name


def _preflight(_: Term, facts: Facts) -> Finding:
    headers = facts.request.headers
    if facts.request.method != "OPTIONS":
        return Finding(Truth.FALSE, False)
    missing = [name for name in _PREFLIGHT_HEADERS if name not in headers]
    if not missing:
        return Finding(Truth.TRUE, True)
    is_other = any(_is_told(facts, name) for name in missing)
    return Finding(Truth.FALSE, False) if is_other else Finding(Truth.UNKNOWN, None)


def _prepare_preflight(term: Term) -> Test:
    return lambda facts: _preflight(term, facts).truth


def _list_free_header(facts: Facts, name: str) -> str | Unreadable | None:
    """The header's value, unless it may be several that somebody on the way has joined with commas."""
    value = _header(facts, name)
    return UNREADABLE if isinstance(value, str) and "," in value else value


_PREPARE_TEXT, _FIND_TEXT = string_forms(_header)
_PREPARE_WHOLE, _FIND_WHOLE = string_forms(_list_free_header)


def _compares_whole(term: Term) -> bool:
    return any(matcher.comparison in WHOLE_VALUE for matcher in term.matchers)


def _prepare_header(term: Term) -> Test:
    return _PREPARE_WHOLE(term) if _compares_whole(term) else _PREPARE_TEXT(term)


def _find_header(term: Term, facts: Facts) -> Finding:
    return _FIND_WHOLE(term, facts) if _compares_whole(term) else _FIND_TEXT(term, facts)


_PREPARE_QUERY, _FIND_QUERY = string_forms(lambda facts, name: query_value(facts.request.query, name))
_PREPARE_HOST, _FIND_HOST = string_forms(lambda facts, _: facts.request.host)

HTTP_METHOD = Criterion(
    name="http_method",
    operand=Operand.STRING,
    summary="Compares the method, which is case-sensitive (RFC 9110, section 9.1).",
    example="http_method: {in: [GET, HEAD]}",
    cases="""
policy:
  - allow: {and: [{http_method: {in: [GET, HEAD]}}]}
cases:
  - {request: {method: HEAD}, effect: allow, reasons: [http-method-ok]}
  - {request: {method: POST}, effect: deny, reasons: [http-method-unauthorized]}
  - {request: {method: get}, effect: deny, reasons: [http-method-unauthorized]}
""",
    reads=frozenset({Fact.METHOD}),
    success="http-method-ok",
    failure="http-method-unauthorized",
    unknown="http-method-unknown",
    keys={"": string_key()},
    in_ppl=True,
    prepare=_prepare_method,
    find=_method,
)
HTTP_PATH = Criterion(
    name="http_path",
    operand=Operand.STRING,
    summary="Compares the path: without its query, percent-decoded once.",
    detail="Paths that two servers could read differently never get this far.",
    example="http_path: {starts_with: /reports/}",
    cases="""
policy:
  - allow: {and: [{http_path: {starts_with: /reports/}}]}
  - allow: {and: [{http_path: {glob: /teams/*/news}}]}
  - allow: {and: [{http_path: {regex: "^/v[0-9]+/status$"}}]}
  - allow: {and: [{http_path: {is: /ABOUT, ignore_case: true}}]}
cases:
  - {request: {path: /reports/2030}, effect: allow, reasons: [http-path-ok]}
  - {request: {path: /private, query: path=/reports/}, effect: deny, reasons: [http-path-unauthorized]}
  - {request: {path: /teams/blue/news}, effect: allow, reasons: [http-path-ok], rule: allow-2}
  - {request: {path: /teams/blue/x/news}, effect: deny, reasons: [http-path-unauthorized]}
  - {request: {path: /v12/status}, effect: allow, reasons: [http-path-ok], rule: allow-3}
  - {request: {path: /About}, effect: allow, reasons: [http-path-ok], rule: allow-4}
""",
    reads=frozenset({Fact.PATH}),
    success="http-path-ok",
    failure="http-path-unauthorized",
    unknown="http-path-unknown",
    keys={"": string_key()},
    folds_case=True,
    in_ppl=True,
    prepare=_prepare_path,
    find=_path,
)
HTTP_HOST = Criterion(
    name="http_host",
    operand=Operand.STRING,
    summary="Compares the host of the route, in lower case and without port; never the client's word for it.",
    example="http_host: app.example.com",
    cases="""
policy:
  - allow: {and: [{http_host: {ends_with: .staging.example.com}}]}
cases:
  - {request: {host: wiki.staging.example.com}, effect: allow, reasons: [http-host-ok]}
  - {request: {host: wiki.example.com}, effect: deny, reasons: [http-host-unauthorized]}
""",
    reads=frozenset({Fact.HOST}),
    success="http-host-ok",
    failure="http-host-unauthorized",
    unknown="http-host-unknown",
    keys={"": string_key(whole=_host_name, piece=str.lower)},
    prepare=_PREPARE_HOST,
    find=_FIND_HOST,
)
HTTP_HEADER = Criterion(
    name="http_header",
    operand=Operand.STRING,
    summary="Compares a request header; unknown when it is absent, or when servers could read it differently.",
    detail=(
        "Its name follows a slash. Two different values, bytes beyond ASCII and blanks at either end make it unknown. A value with "
        "a comma may be two, so `is`, `in` and their opposites are unknown for it. "
        "Clients write headers as they like: a header proves nothing that the client does "
        "not prove otherwise. Headers that hold secrets cannot be compared."
    ),
    example="http_header/x-team: blue",
    cases="""
policy:
  - allow: {and: [{http_header/X-Api-Version: {">=": 3}}]}
  - allow: {and: [{http_header/user-agent: {contains: curl, ignore_case: true, optional: true}}]}
cases:
  - {request: {headers: {x-api-version: "10"}}, effect: allow, reasons: [http-header-ok]}
  - {request: {headers: {x-api-version: "2"}}, effect: deny, reasons: [http-header-unauthorized]}
  - {request: {headers: {x-api-version: ["3", "4"]}}, effect: deny, reasons: [http-header-unauthorized, http-header-unknown]}
  - {request: {headers: {user-agent: Curl/8}}, effect: allow, reasons: [http-header-ok], rule: allow-2}
  - {request: {headers: {user-agent: "Curl é"}}, effect: deny, reasons: [http-header-unknown]}
""",
    reads=frozenset({Fact.HEADER}),
    success="http-header-ok",
    failure="http-header-unauthorized",
    unknown="http-header-unknown",
    keys={"": string_key(numeric=True, exists=True)},
    takes_argument=True,
    argument=_header_name,
    may_be_absent=True,
    folds_case=True,
    unknown_by_facts_alone=False,
    prepare=_prepare_header,
    find=_find_header,
)
HTTP_QUERY = Criterion(
    name="http_query",
    operand=Operand.STRING,
    summary="Compares a query parameter; unknown when it is absent, or when servers could read it differently.",
    detail=(
        "Its name follows a slash. A parameter with two different values, a broken escape or a `;` anywhere in the query "
        "make it unknown."
    ),
    example="http_query/tenant: blue",
    cases="""
policy:
  - allow: {and: [{http_query/tenant: blue}]}
cases:
  - {request: {query: "page=2&tenant=blue"}, effect: allow, reasons: [http-query-ok]}
  - {request: {query: "tenant=red"}, effect: deny, reasons: [http-query-unauthorized]}
  - {request: {query: "tenant=blue&tenant=red"}, effect: deny, reasons: [http-query-unknown]}
  - {request: {query: "a=1;tenant=blue"}, effect: deny, reasons: [http-query-unknown]}
""",
    reads=frozenset({Fact.QUERY}),
    success="http-query-ok",
    failure="http-query-unauthorized",
    unknown="http-query-unknown",
    keys={"": string_key(numeric=True, exists=True)},
    takes_argument=True,
    may_be_absent=True,
    folds_case=True,
    prepare=_PREPARE_QUERY,
    find=_FIND_QUERY,
)
CORS_PREFLIGHT = Criterion(
    name="cors_preflight",
    operand=Operand.NOTHING,
    summary="Holds for `OPTIONS` with `Origin` and `Access-Control-Request-Method`.",
    detail="Such a request reaches the upstream without anybody's identity; `allowed_origins` answers it in front instead.",
    example="cors_preflight: true",
    cases="""
policy:
  - allow: {or: [{cors_preflight: true}]}
cases:
  - request: {method: OPTIONS, headers: {origin: "https://a.example", access-control-request-method: PUT}}
    effect: allow
    reasons: [cors-request]
  - {request: {method: OPTIONS}, effect: deny, reasons: [non-cors-request]}
""",
    reads=frozenset({Fact.METHOD}),
    also_reads=frozenset(f"http_header/{name}" for name in _PREFLIGHT_HEADERS),
    success="cors-request",
    failure="non-cors-request",
    unknown="cors-request-unknown",
    in_ppl=True,
    prepare=_prepare_preflight,
    find=_preflight,
)
