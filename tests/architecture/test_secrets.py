"""S80: no secret is compared byte by byte, where the time that it takes would tell how much of a guess was right."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECRET = re.compile(
    r"(?:^|_)(?:secret|token|signature|mac|nonce|password|code|state|verifier|challenge|handle|cookie|hash)s?$"
)
NO_SECRETS = {
    "services/proxy/doorward_proxy/xds/subscription.py": "`nonce` numbers answers; Envoy is told it",
    "src/doorward/records/client.py": "`state` of a revoke is a word of the contract",
    "services/databroker/doorward_databroker/directory/scim/members.py": "`state` is what is stored of a person",
    "src/doorward/keys/sealed.py": "the first byte of a token is its format",
}


def comparisons(source: str) -> Iterator[tuple[int, str]]:
    """Where something that is called like a secret is compared with ``==`` or ``!=``; with a constant it is no guess."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare) or not any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            continue
        sides = [node.left, *node.comparators]
        if any(isinstance(side, ast.Constant) for side in sides):
            continue
        if any(SECRET.search(called(side).lower()) for side in sides):
            yield node.lineno, ast.unparse(node)


def called(node: ast.expr) -> str:
    """The last word for a value: its name, its attribute, its key, or the function that gave it."""
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return called(node.value) if node.attr in {"reveal", "encode", "get"} else node.attr
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str() as key), *_]):
            return key
        case ast.Call():
            return called(node.func)
        case ast.Subscript(slice=ast.Constant(value=str() as key)):
            return key
        case ast.Subscript():
            return called(node.value)
        case _:
            return ""


def test_s80_no_secret_is_compared_in_a_time_that_tells_about_it():
    found = []
    for folder in ("src", "services"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if name.endswith(("_pb2.py", "_pb2_grpc.py")) or name in NO_SECRETS:
                continue
            found += [f"{name}:{line}: {text}" for line, text in comparisons(path.read_text())]
    assert found == [], "use `hmac.compare_digest`"


@pytest.mark.parametrize(
    "text",
    [
        "token == given",
        "self.secret.reveal() != other",
        "claims.get('nonce') == expected",
        "form['code'] != code",
        "stored.token_hash == hashed",
        "expected.nonce.encode() == found",
    ],
)
def test_such_a_comparison_would_be_found(text: str):
    assert list(comparisons(text)) == [(1, ast.unparse(ast.parse(text).body[0]))]


def test_every_exception_is_still_needed():
    idle = [name for name in NO_SECRETS if not list(comparisons((ROOT / name).read_text()))]
    assert idle == []
