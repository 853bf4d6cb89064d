import json
import subprocess
import urllib.parse
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.key_material import key, keyring

from doorward.errors import InvalidTokenError
from doorward.keys.flow import (
    COOKIE_LIMIT,
    LIFETIME_SECONDS,
    RETURN_PATH_LIMIT,
    FlowSealer,
    SignInRequest,
    SignInSigner,
    WantedStepUp,
    flow_fingerprint,
    is_flow_cookie,
    new_flow,
    oldest_beyond_limit,
    safe_return_path,
)
from doorward.keys.keyring import Keyring
from doorward.keys.sealed import Sealer
from doorward.keys.store import Purpose

NOW = 1_800_000_000
HOST = "verify.example.com"
FLOW = new_flow("/reports?year=2026", NOW, bytes(range(20)))
FLOWS = FlowSealer(Sealer(keyring(Purpose.FLOW)))
SIGNER = SignInSigner(keyring(Purpose.FLOW))
REQUEST = SignInRequest(
    authority="verify.example.com:8443",
    fingerprint=FLOW.fingerprint,
    flow_name=FLOW.name,
    expires_at=NOW + LIFETIME_SECONDS,
)
STEP_UP = WantedStepUp(
    session_id="0123456789abcdef" * 2, max_age_seconds=300, methods=("hwk", "otp"), context_classes=("urn:x:mfa",)
)
FOREIGN = [
    "" if line == "``" else line.encode("ascii").decode("unicode_escape")
    for line in (Path(__file__).parent / "data" / "foreign_return_targets.txt").read_text().splitlines()
    if not line.startswith("# ")
]


def test_s36_the_list_of_foreign_targets_is_whole():
    assert len(FOREIGN) >= 150


@pytest.mark.parametrize("target", FOREIGN, ids=ascii)
def test_s36_a_foreign_target_becomes_the_front_page(target):
    """Whoever can choose where a sign-in ends can phish with our name."""
    assert safe_return_path(target) == "/"
    assert new_flow(target, NOW, bytes(20)).return_path == "/"


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/a",
        "/a/b/",
        "/a?b=c&d=//e",
        "/%2F",
        "/a%0d%0ab",
        "/?next=https://evil.example",
        "/a;b",
        "/~x",
        "/@x",
        "/a//b",
    ],
)
def test_a_target_on_the_same_host_is_kept(target):
    assert safe_return_path(target) == target


def test_a_fragment_is_left_behind():
    assert safe_return_path("/a?b#c#d") == "/a?b"


def test_a_target_longer_than_the_limit_becomes_the_front_page():
    assert safe_return_path("/" + "a" * (RETURN_PATH_LIMIT - 1)) != "/"
    assert safe_return_path("/" + "a" * RETURN_PATH_LIMIT) == "/"


def test_s36_a_url_parser_like_the_browsers_stays_on_the_host_whatever_is_put_together():
    """Every lead, separator and ending, read by the parser that the WHATWG's URL standard describes (Node's)."""
    leads = (
        "",
        "/",
        "//",
        "///",
        "\\",
        "/\\",
        "\\/",
        "\t/",
        "/\t/",
        "/\n\\",
        " /",
        "\0/",
        "https:",
        "https:/",
        "https://",
        "javascript:",
    )
    between = (
        "",
        "/",
        "\\",
        "@",
        ".",
        "..",
        "../",
        "/./",
        "/../",
        "%2f",
        "%5c",
        "%09/",
        "%0d%0a",
        "\u3002",
        ";",
        "?",
        "#",
    )
    ends = (
        "evil.example",
        "evil.example/path",
        "user@evil.example",
        "//evil.example",
        "evil.example:443",
        "[::1]",
        "0x7f.1",
    )
    targets = [lead + middle + end for lead in leads for middle in between for end in ends]
    script = """
        const kept = JSON.parse(require("fs").readFileSync(0));
        console.log(JSON.stringify(kept.map((path) => new URL(path, "https://verify.example.com/x").origin)));
    """
    kept = [safe_return_path(target) for target in targets]
    ran = subprocess.run(["node", "-e", script], input=json.dumps(kept), capture_output=True, text=True, check=True)
    origins = json.loads(ran.stdout)
    left = {t: k for t, k, origin in zip(targets, kept, origins, strict=True) if origin != "https://verify.example.com"}

    assert len(targets) > 1_500
    assert not left
    assert len({k for k in kept if k != "/"}) > 50, (
        "harmless paths stay as they are, so the parser had something to read"
    )


@given(st.text(max_size=60) | st.text("/\\.:@?#%\t\n evil", max_size=20))
def test_s36_a_browser_stays_on_the_host_with_whatever_is_kept(target):
    path = safe_return_path(target)
    # A browser takes a backslash for a slash and drops tab and newline before it looks.
    seen = path.replace("\\", "/").translate({9: None, 10: None, 13: None})

    assert urllib.parse.urljoin("https://verify.example.com/x", seen).startswith("https://verify.example.com/")
    assert not seen.startswith("//")
    assert safe_return_path(path) == path


def test_a_flow_comes_back():
    assert FLOWS.open(FLOW.name, FLOWS.seal(FLOW, HOST), HOST, NOW) == FLOW


@given(st.text(max_size=80), st.binary(min_size=20, max_size=20), st.integers(0, 10**11))
def test_every_new_flow_comes_back(target, random, now):
    flow = new_flow(target, now, random)

    assert is_flow_cookie(flow.name)
    assert FLOWS.open(flow.name, FLOWS.seal(flow, HOST), HOST, now) == flow


def test_a_flow_ends_at_its_second():
    value = FLOWS.seal(FLOW, HOST)

    assert FLOWS.open(FLOW.name, value, HOST, NOW + LIFETIME_SECONDS - 0.001) == FLOW
    with pytest.raises(InvalidTokenError):
        FLOWS.open(FLOW.name, value, HOST, NOW + LIFETIME_SECONDS)


@pytest.mark.parametrize(
    ("name", "host"),
    [
        (FLOW.name[:-1] + "0", HOST),
        (new_flow("/", NOW + 1, bytes(range(20))).name, HOST),
        (FLOW.name, "admin.example.com"),
        (FLOW.name, "verify.example.com:8443"),
        (FLOW.name + "\0verify", ".example.com"),
    ],
    ids=["other random", "other time", "other host", "with port", "shifted border"],
)
def test_a_flow_cookie_under_another_name_or_host_is_refused(name, host):
    with pytest.raises(InvalidTokenError):
        FLOWS.open(name, FLOWS.seal(FLOW, HOST), host, NOW)


def test_s44_no_changed_character_of_a_flow_cookie_opens():
    value = FLOWS.seal(FLOW, HOST)

    for index, character in enumerate(value):
        for other in "A", "z", "%":
            if other != character:
                with pytest.raises(InvalidTokenError):
                    FLOWS.open(FLOW.name, value[:index] + other + value[index + 1 :], HOST, NOW)


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_secret_that_would_be_cut_or_padded_is_not_sealed(size):
    with pytest.raises(ValueError):
        FLOWS.seal(replace(FLOW, secret=bytes(size)), HOST)


def test_the_redirect_carries_the_secret_only_as_a_hash():
    query = SIGNER.sign(REQUEST)

    assert FLOW.secret.hex() not in query
    assert flow_fingerprint(FLOW.secret) == FLOW.fingerprint != FLOW.secret
    assert "reports" not in query


def test_a_signed_request_comes_back():
    assert SIGNER.verify(SIGNER.sign(REQUEST), NOW) == REQUEST


def test_s37_no_byte_of_the_signed_url_can_be_changed():
    """A parameter outside the signature is one that the attacker fills in."""
    query = SIGNER.sign(REQUEST)

    accepted = []
    for index in range(len(query)):
        for other in [*"aA0z&=%+;#-_.~/: ", "\0", "é", chr(ord(query[index]) ^ 0x20), chr(ord(query[index]) ^ 0x01)]:
            if other == query[index]:
                continue
            changed = query[:index] + other + query[index + 1 :]
            try:
                accepted.append((changed, SIGNER.verify(changed, NOW)))
            except InvalidTokenError:
                continue
    # `%3A` and `%3a` are two spellings of one colon; nothing else may differ, and what it says never does.
    assert all(request == REQUEST for _, request in accepted)
    assert {changed.lower() for changed, _ in accepted} <= {query.lower()}
    assert {urllib.parse.unquote(changed) for changed, _ in accepted} <= {urllib.parse.unquote(query)}


def test_s37_no_parameter_can_be_dropped_doubled_emptied_or_added():
    pairs = urllib.parse.parse_qsl(SIGNER.sign(REQUEST))
    variants = [[*pairs, ("next", "https://evil.example")], [*pairs, *pairs], []]
    for index, (name, value) in enumerate(pairs):
        rest = pairs[:index] + pairs[index + 1 :]
        variants += [rest, [*pairs, (name, value)], [*rest, (name, "")], [*rest, (name.upper(), value)]]

    for variant in variants:
        with pytest.raises(InvalidTokenError):
            SIGNER.verify(urllib.parse.urlencode(variant), NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"authority": "evil.example"},
        {"authority": "verify.example.com"},
        {"expires_at": NOW + 10 * LIFETIME_SECONDS},
        {"fingerprint": flow_fingerprint(b"the attacker's own")},
        {"flow_name": new_flow("/", NOW, bytes(20)).name},
        {"purpose": "sign-out"},
        {"purpose": "step-up", "step_up": STEP_UP},
    ],
    ids=str,
)
def test_s37_a_signature_does_not_fit_another_request(changes):
    signature = dict(urllib.parse.parse_qsl(SIGNER.sign(REQUEST)))["signature"]
    other = dict(urllib.parse.parse_qsl(SIGNER.sign(replace(REQUEST, **changes))))

    with pytest.raises(InvalidTokenError):
        SIGNER.verify(urllib.parse.urlencode({**other, "signature": signature}), NOW)


@pytest.mark.parametrize("text", ["verify.example.com.evil.test", "evil-verify.example.com", "verifyXexample.com"])
def test_s39_hosts_that_only_resemble_the_signed_one_do_not_verify(text):
    with pytest.raises(InvalidTokenError):
        SIGNER.verify(SIGNER.sign(REQUEST).replace("verify.example.com", text), NOW)


def test_s37_a_request_of_another_purpose_or_one_that_has_expired_is_refused():
    with pytest.raises(InvalidTokenError, match="purpose"):
        SIGNER.verify(SIGNER.sign(replace(REQUEST, purpose="sign-out")), NOW)
    with pytest.raises(InvalidTokenError, match="expired"):
        SIGNER.verify(SIGNER.sign(REQUEST), NOW + LIFETIME_SECONDS)


@pytest.mark.parametrize(
    "step_up",
    [STEP_UP, WantedStepUp(session_id="0" * 32), WantedStepUp(session_id="f" * 32, max_age_seconds=0)],
    ids=["everything", "nothing", "no-age-at-all"],
)
def test_a_step_up_comes_out_as_it_went_in(step_up):
    request = replace(REQUEST, purpose="step-up", step_up=step_up)
    assert SIGNER.verify(SIGNER.sign(request), NOW) == request


@pytest.mark.parametrize(
    "changes",
    [
        {"session": "f" * 32}, {"session": "x"}, {"max_age": "3000"}, {"max_age": ""}, {"max_age": "-1"},
        {"methods": "pwd"}, {"methods": ""}, {"context_classes": ""}, {"purpose": "sign-in"},
    ],
    ids=str,
)  # fmt: skip
def test_s37_nothing_in_a_step_up_can_be_changed(changes):
    """Whoever could take out what is wanted would step up with any sign-in, or confirm another session."""
    fields = dict(urllib.parse.parse_qsl(SIGNER.sign(replace(REQUEST, purpose="step-up", step_up=STEP_UP)), True))
    with pytest.raises(InvalidTokenError):
        SIGNER.verify(urllib.parse.urlencode({**fields, **changes}), NOW)
    with pytest.raises(InvalidTokenError):
        SIGNER.verify(urllib.parse.urlencode({k: v for k, v in fields.items() if k != "methods"}), NOW)


def test_a_request_without_a_whole_fingerprint_is_refused():
    with pytest.raises(InvalidTokenError):
        SIGNER.verify(SIGNER.sign(replace(REQUEST, fingerprint=b"")), NOW)


@pytest.mark.parametrize(
    "query", ["", "&", "=", "a", "?", "signature=", "\udcff=1", "é=1", "%ff=%ff", "a=1&" * 20, "x" * 5000]
)
def test_what_is_no_query_of_ours_is_refused(query):
    with pytest.raises(InvalidTokenError):
        SIGNER.verify(query, NOW)


@given(st.text(max_size=200))
def test_noise_is_refused_as_a_token_and_not_as_an_error(query):
    with pytest.raises(InvalidTokenError):
        SIGNER.verify(query, NOW)


def test_a_request_signed_before_a_rotation_verifies_until_its_key_goes():
    old, new = key("old"), key("new")
    query = SignInSigner(Keyring("flow", [old])).sign(REQUEST)

    assert SignInSigner(Keyring("flow", [new, old])).verify(query, NOW) == REQUEST
    with pytest.raises(InvalidTokenError):
        SignInSigner(Keyring("flow", [new])).verify(query, NOW)


@pytest.mark.parametrize(
    "name",
    [
        "__Host-doorward-flow-1800000000-0001020", "__Host-doorward-flow-1800000000-00010203\n",
        "__Host-doorward-flow-180000000-00010203", "__Host-doorward-flow-1800000000-0001020G",
        "__host-doorward-flow-1800000000-00010203", "x__Host-doorward-flow-1800000000-00010203",
        "__Host-doorward-flow-١٨٠٠٠٠٠٠٠٠-00010203", "__Host-doorward", "",
    ],
)  # fmt: skip
def test_names_that_only_resemble_flow_cookies_are_none(name):
    assert not is_flow_cookie(name)


def test_the_oldest_flows_make_room_for_one_more():
    names = [new_flow("/", NOW + age, bytes(20)).name for age in range(COOKIE_LIMIT + 3)]

    assert oldest_beyond_limit([]) == []
    assert oldest_beyond_limit(names[: COOKIE_LIMIT - 1]) == []
    assert oldest_beyond_limit(names[:COOKIE_LIMIT]) == names[:1]
    assert oldest_beyond_limit([*reversed(names), "other", "__Host-doorward"]) == names[:4]
