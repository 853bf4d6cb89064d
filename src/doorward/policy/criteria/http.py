"""Criteria about the request: ``http_method`` and ``http_path``."""

from doorward.policy.criteria.matching import match_string, string_test
from doorward.policy.criteria.port import Criterion, Fact, Finding, Operand, Test
from doorward.policy.facts import Facts
from doorward.policy.nodes import Term
from doorward.policy.truth import Truth


def _method(term: Term, facts: Facts) -> Finding:
    method = facts.request.method
    return Finding(Truth.of(match_string(term.matchers, method)), method)


def _prepare_method(term: Term) -> Test:
    test = string_test(term.matchers)
    return lambda facts: Truth.TRUE if test(facts.request.method) else Truth.FALSE


def _path(term: Term, facts: Facts) -> Finding:
    path = facts.request.path
    return Finding(Truth.of(match_string(term.matchers, path)), path)


def _prepare_path(term: Term) -> Test:
    test = string_test(term.matchers)
    return lambda facts: Truth.TRUE if test(facts.request.path) else Truth.FALSE


HTTP_METHOD = Criterion(
    name="http_method",
    operand=Operand.STRING,
    summary="Compares the method, which is case-sensitive (RFC 9110, section 9.1).",
    example="http_method: {in: [GET, HEAD]}",
    reads=frozenset({Fact.METHOD}),
    success="http-method-ok",
    failure="http-method-unauthorized",
    unknown="http-method-unknown",
    prepare=_prepare_method,
    find=_method,
)
HTTP_PATH = Criterion(
    name="http_path",
    operand=Operand.STRING,
    summary="Compares the decoded path without its query.",
    example="http_path: {starts_with: /reports/}",
    reads=frozenset({Fact.PATH}),
    success="http-path-ok",
    failure="http-path-unauthorized",
    unknown="http-path-unknown",
    prepare=_prepare_path,
    find=_path,
)
