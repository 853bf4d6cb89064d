"""A file becomes settings, or every problem at once; a broken route keeps its place."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.config.load import load, load_settings
from doorward.config.references import read_secret
from doorward.config.settings import Settings
from doorward.errors import ConfigurationError
from doorward.keys.secret import Secret
from doorward.route.route import Match, MatchKind

GOOD = """\
version: 1
authenticate_url: https://sign-in.example.com
identity_providers:
  - id: corp
    issuer: https://idp.example.com
    client_id: doorward
    client_secret: file:secret
routes:
  - name: app
    from: https://app.example.com
    to: http://127.0.0.1:9000
    policy: [{allow: {and: [{authenticated_user: true}]}}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("hunter2\n")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "doorward.yaml"
    path.write_text(text)
    return path


def settings_of(folder: Path, text: str) -> Settings:
    return load_settings(write(folder, text))


def with_route(extra: str) -> str:
    return GOOD + "".join(f"    {line}\n" for line in extra.splitlines())


def another_route(text: str) -> str:
    lines = text.splitlines()
    return GOOD + "".join(("  - " if index == 0 else "    ") + line + "\n" for index, line in enumerate(lines))


def test_a_good_file_becomes_settings(folder: Path):
    loaded = settings_of(folder, GOOD)
    assert [item.route.id for item in loaded.routes] == ["app"]
    route = loaded.routes[0].route
    assert (route.host, route.port, route.match) == ("app.example.com", 443, Match(kind=MatchKind.PREFIX, value="/"))
    assert route.broken is None
    assert loaded.hosts == ("app.example.com", "sign-in.example.com")
    assert loaded.identity_providers[0].client_secret.reveal() == "hunter2"
    assert "hunter2" not in repr(loaded)
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("version: 1", "version: 2", "1:10: error: `version`"),
        ("version: 1", "", "`version` is missing"),
        ("version: 1", "version: 1\nlisten: nowhere", "2:9: error: `listen` is `nowhere`"),
        ("version: 1", "version: 1\nlisten: 127.0.0.1:0", "`listen`"),
        ("version: 1", "version: 1\nrouts: []", "2:1: error: unknown key `routs` (did you mean `routes`?)"),
        ("https://sign-in.example.com", "http://sign-in.example.com", "2:19: error: `authenticate_url`"),
        ("https://sign-in.example.com", "https://user@sign-in.example.com", "`authenticate_url`"),
        ("https://idp.example.com", "http://idp.example.com", "is not encrypted"),
        ("https://idp.example.com", "ftp://idp.example.com", "`issuer`"),
        ("file:secret", "hunter2", "expected `env:NAME` or `file:PATH`"),
        ("file:secret", "file:nothing-there", "cannot read `nothing-there`"),
        ("file:secret", "env:DOORWARD_NO_SUCH_VARIABLE", "is not set or empty"),
        ("client_id: doorward", "client_id: doorward\n    scopes: [email]", "`openid` is missing"),
        ("client_id: doorward", "client_id: doorward\n    signing_algorithms: [HS256]", "signing_algorithms"),
        ("client_id: doorward", "client_id: doorward\n    signing_algorithms: [none]", "signing_algorithms"),
        ("https://app.example.com", "http://app.example.com", "10:11: error: `from` is `http://app.example.com`"),
        ("https://app.example.com", "https://App.example.com", "in lower case"),
        ("https://app.example.com", "https://app.example.com/path", "without a path"),
        ("https://app.example.com", "https://*.example.com", "`from`"),
        ("https://app.example.com", "https://sign-in.example.com", "is the sign-in host"),
        ("    from: https://app.example.com\n", "", "`from` is missing"),
        (
            "version: 1",
            "version: 1\ndecision_log: {mode: audit-or-deny}",
            "2:22: error: `audit-or-deny` needs a `file`",
        ),
        ("version: 1", "version: 1\ndecision_log: {mode: audit-or-deny, file: '-'}", "needs a `file`"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(folder: Path, old: str, new: str, expected: str):
    text = GOOD.replace(old, new).replace("  - name: app\n    to", "  - name: app\n    to")
    with pytest.raises(ConfigurationError) as caught:
        settings_of(folder, text)
    assert expected in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_every_problem_is_reported_at_once(folder: Path):
    text = GOOD.replace("version: 1", "version: 9\nlisten: x\nfoo: 1").replace("https://idp", "http://idp")
    with pytest.raises(ConfigurationError) as caught:
        settings_of(folder, text)
    assert len(caught.value.problems) >= 2


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("timout: 3s", "unknown key `timout` (did you mean `timeout`?)"),
        ("timeout: soon", "expected a duration"),
        ("timeout: 0s", "`timeout`"),
        ("set_request_headers: {'bad name': x}", "is no header name"),
        ('set_request_headers: {x-a: "a\\r\\nb"}', "characters that no header may hold"),
        ("set_request_headers: {cookie: x}", "is not a route's to set or remove"),
        ("set_request_headers: {x-doorward-jwt-assertion: x}", "is not a route's to set or remove"),
        ("remove_request_headers: [x-doorward-client-address]", "is not a route's to set or remove"),
        ("set_request_headers: {x-a: '1'}\nremove_request_headers: [X-A]", "is both set and removed"),
        ("set_response_headers: {set-cookie: x}", "is not a route's to set"),
        ("allowed_origins: ['https://a.example.com/path']", "is no origin"),
        ("websocket: true\ncontinuous: false", "always guarded"),
        ("tls_ca_file: nothing", "cannot read `nothing`"),
        ("tls_server_name: x", "without TLS"),
    ],
)
def test_a_broken_route_keeps_its_place_and_stops_no_other(folder: Path, extra: str, expected: str):
    text = with_route(extra) + another_route(
        "name: other\nfrom: https://other.example.com\nto: http://127.0.0.1:9001\npolicy: [{allow: {or: [{accept: true}]}}]"
    ).removeprefix(GOOD)
    loaded = load(write(folder, text))
    assert loaded.settings is not None
    broken = {item.route.id: item.route.broken for item in loaded.settings.routes}
    assert broken["app"] is not None
    assert broken["other"] is None
    assert any(expected in problem.render() for problem in loaded.problems), [p.render() for p in loaded.problems]


@pytest.mark.parametrize("to", ["127.0.0.1:9000", "http://127.0.0.1:9000/base", "ftp://a", "http://a:99999", "http://"])
def test_an_upstream_that_is_no_address_breaks_its_route(folder: Path, to: str):
    loaded = settings_of(folder, GOOD.replace("http://127.0.0.1:9000", to))
    assert loaded.routes[0].route.broken is not None


def test_a_policy_that_does_not_parse_breaks_its_route(folder: Path):
    loaded = settings_of(folder, GOOD.replace("authenticated_user", "autenticated_user"))
    assert loaded.routes[0].route.broken is not None
    assert "did you mean `authenticated_user`?" in loaded.warnings[0].render()


@pytest.mark.parametrize(
    "match",
    [
        "prefix: relative",
        "path: /a/../b",
        "prefix: /a//b",
        "prefix: /a\npath: /b",
        "path: /x;y",
        "prefix: /a|b",
        "path: /%61b",
    ],
)
def test_a_match_that_cannot_be_built_breaks_its_host(folder: Path, match: str):
    loaded = settings_of(folder, with_route(match))
    assert loaded.routes == ()
    assert [host for host, _ in loaded.broken_hosts] == ["app.example.com"]
    assert "app.example.com" in loaded.hosts


@pytest.mark.parametrize("path", ["/.doorward", "/.doorward/callback", "/.well-known/doorward/jwks.json"])
def test_our_own_paths_are_not_a_routes_to_take(folder: Path, path: str):
    assert settings_of(folder, with_route(f"path: {path}")).broken_hosts


def test_two_identity_providers_need_domains(folder: Path):
    second = "  - {id: two, issuer: https://two.example.com, client_id: x, client_secret: 'file:secret'}\nroutes:"
    with pytest.raises(ConfigurationError, match="needs `email_domains`"):
        settings_of(folder, GOOD.replace("routes:", second))


def test_two_routes_of_one_name_are_refused(folder: Path):
    text = another_route(
        "name: app\nfrom: https://b.example.com\nto: http://127.0.0.1:1\npolicy: [{allow: {or: [{accept: true}]}}]"
    )
    with pytest.raises(ConfigurationError, match="two routes are named `app`"):
        settings_of(folder, text)


@pytest.mark.parametrize("other", ["https://app.example.com", "https://app.example.com:8443"])
def test_two_routes_of_one_match_are_neither_served_and_let_nobody_in(folder: Path, other: str):
    """Which of them was meant nobody knows, and the other one may be the stricter."""
    text = another_route(
        f"name: b\nfrom: {other}\nto: http://127.0.0.1:1\npolicy: [{{allow: {{or: [{{accept: true}}]}}}}]"
    )
    loaded = load(write(folder, text))
    assert loaded.settings is not None
    [item] = loaded.settings.routes
    assert (item.route.id, item.route.upstreams) == ("app", ())
    assert item.route.broken is not None
    assert "doorward.yaml:9:" in item.route.broken
    assert "doorward.yaml:13:" in item.route.broken
    assert item.policy.rules == ()
    found = [problem.render() for problem in loaded.problems]
    assert len(found) == 2
    for line, name, place in ((9, "b", 13), (13, "app", 9)):
        assert any(
            f"doorward.yaml:{line}:" in said and f"`{name}` (" in said and f".yaml:{place}:" in said for said in found
        )


def test_other_routes_of_the_host_keep_their_places_round_an_ambiguous_one(folder: Path):
    policy = "policy: [{allow: {or: [{accept: true}]}}]"
    rest = "from: https://app.example.com\nto: http://127.0.0.1:1\n" + policy
    text = GOOD + "".join(
        another_route(f"name: {name}\nprefix: {prefix}\n{rest}").removeprefix(GOOD)
        for name, prefix in (("a", "/a"), ("b", "/b"), ("again", "/a"))
    )
    kept = [(item.route.id, item.route.broken is None) for item in settings_of(folder, text).routes]
    assert kept == [("app", True), ("a", False), ("b", True)]


def test_path_parameters_exclude_path_separated_routes_on_the_host(folder: Path):
    text = with_route("path_parameters: allow") + another_route(
        "name: b\nfrom: https://app.example.com\nprefix: /b\nto: http://127.0.0.1:1\npolicy: [{allow: {or: [{accept: true}]}}]"
    ).removeprefix(GOOD)
    with pytest.raises(ConfigurationError, match="path_parameters: allow"):
        settings_of(folder, text)


def test_the_generation_follows_text_and_files(folder: Path):
    """Two processes that report one generation must decide alike."""
    before = settings_of(folder, GOOD)
    first = before.generation
    assert settings_of(folder, GOOD).generation == first
    assert settings_of(folder, GOOD.replace("9000", "9001")).generation != first
    (folder / "secret").write_text("changed\n")
    changed = settings_of(folder, GOOD)
    assert changed.generation == first, "not every plane holds secrets, and all must report one generation"
    assert changed.secrets_digest != before.secrets_digest


@pytest.mark.parametrize("text", ["", "[]", "a", "version: 1\n\tx", "\x00", "{"])
def test_what_is_no_mapping_is_refused(folder: Path, text: str):
    with pytest.raises(ConfigurationError, match=r"doorward\.yaml:\d+:\d+: error: "):
        settings_of(folder, text)


def test_a_missing_or_binary_file_is_refused(folder: Path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_settings(folder / "nothing.yaml")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_settings(folder / "binary.yaml")


_yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["from", "to", "prefix", "policy", "timeout", "claim_headers", "allowed_origins"]), _yaml_values)
def test_no_value_escapes_as_another_exception(tmp_path_factory: pytest.TempPathFactory, key: str, value: object):
    """A file from anywhere gives settings or problems; never a traceback, never a silent pass."""
    import yaml

    folder = tmp_path_factory.mktemp("config")
    (folder / "secret").write_text("s")
    document = yaml.safe_load(GOOD)
    document["routes"][0][key] = value
    path = folder / "doorward.yaml"
    path.write_text(yaml.safe_dump(document))
    try:
        loaded = load(path)
    except ConfigurationError:
        return
    assert loaded.settings is not None or loaded.problems


@pytest.mark.parametrize(
    ("extra", "guarded"),
    [
        ("", False),
        ("continuous: true", True),
        ("websocket: true", True),
        ("timeout: none", True),
        ("timeout: 5m", False),
    ],
)
def test_what_has_no_end_is_guarded(folder: Path, extra: str, guarded: bool):
    assert settings_of(folder, with_route(extra)).routes[0].route.continuous is guarded


def test_grpc_is_guarded_unless_the_route_says_that_its_calls_are_short(folder: Path):
    grpc = GOOD.replace("http://127.0.0.1:9000", "h2c://127.0.0.1:9000")
    assert settings_of(folder, grpc).routes[0].route.continuous
    assert not settings_of(folder, grpc + "    continuous: false\n").routes[0].route.continuous


TUNNEL = GOOD.replace("https://app.example.com", "tcp+https://app.example.com:5432").replace("http://127", "tcp://127")


def test_a_tunnel_matches_its_port_and_is_guarded(folder: Path):
    route = settings_of(folder, TUNNEL).routes[0].route
    assert route.match == Match(kind=MatchKind.TCP, value="5432")
    assert (route.host, route.continuous, route.is_tunnel) == ("app.example.com", True, True)
    assert route.upstreams[0].scheme == "tcp"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TUNNEL.replace(":5432", ""), "expected `tcp+https://host:port`"),
        (TUNNEL.replace(":5432", ":0"), "expected `tcp+https://host:port`"),
        (TUNNEL.replace("tcp://127", "http://127"), "tunnels and `tcp://` go together"),
        (TUNNEL.replace("tcp+https", "https"), "tunnels and `tcp://` go together"),
        (TUNNEL.replace("127.0.0.1:9000", "127.0.0.1"), "`to` is"),
        (TUNNEL + "    prefix: /x\n", "a tunnel has no `prefix`"),
        (TUNNEL + "    continuous: false\n", "always guarded"),
        (TUNNEL + "    websocket: true\n", "a tunnel carries anything"),
        (with_route("timeout: none\ncontinuous: false"), "always guarded"),
        (with_route("timeout: 6m"), "at most `5m`"),
        (with_route("timeout: 0s"), "more than nothing"),
    ],
)
def test_a_stream_without_end_or_guard_is_refused(folder: Path, text: str, message: str):
    loaded = load(write(folder, text))
    assert message in "\n".join(problem.render() for problem in loaded.problems)


def test_a_store_of_ones_own_is_named_with_its_credentials(folder: Path):
    (folder / "password").write_text("open sesame\n")
    text = GOOD + (
        "databroker:\n  redis: rediss+sentinel://a:1,b:2/main\n  redis_username: doorward\n"
        "  redis_password: file:password\n  redis_ca: ca.pem\n  redis_replicas: 1\n"
    )
    loaded = load(write(folder, text), store_secrets=read_secret)
    assert loaded.settings is not None
    redis = loaded.settings.redis
    assert redis is not None
    assert (redis.url, redis.username, redis.replicas) == ("rediss+sentinel://a:1,b:2/main", "doorward", 1)
    assert redis.password == Secret("open sesame")
    assert redis.ca_file == folder / "ca.pem"


@pytest.mark.parametrize(
    "block",
    [
        "redis: http://a", "redis: 'redis://joe:hunter2@a'", "redis: 'redis+sentinel://a:1'", "redis: unix://relative",
        "{redis: 'redis://a', redis_username: joe}", "{redis: 'redis://a', redis_password: hunter2}",
    ],
)  # fmt: skip
def test_a_store_that_cannot_be_meant_is_reported_without_its_password(folder: Path, block: str):
    text = GOOD + (f"databroker: {block}\n" if block.startswith("{") else f"databroker:\n  {block}\n")
    loaded = load(write(folder, text), store_secrets=read_secret)
    assert loaded.settings is None
    problems = [problem.render() for problem in loaded.problems]
    assert problems
    assert "hunter2" not in "".join(problems)


def test_headers_with_facts_are_kept_apart_from_fixed_ones(folder: Path):
    text = with_route('set_request_headers: {X-Fixed: "1", Authorization: "Bearer ${assertion}", x-who: "${email}"}')
    route = settings_of(folder, text).routes[0].route
    assert route.set_request_headers == (("x-fixed", "1"),)
    assert [name for name, _ in route.request_templates] == ["authorization", "x-who"]


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ('{x-a: "${nobody}"}', "`${nobody}` is no variable"),
        ('{x-a: "${user"}', "not closed"),
        ('{authorization: "Bearer fixed"}', "not a route's to set"),
        ('{cookie: "a=${user}"}', "not a route's to set"),
        ('{x-doorward-user: "${user}"}', "not a route's to set"),
        ('{x-a: "${user}", X-A: "1"}', "twice in different case"),
        ('{x-a: "ü ${user}"}', "no header may hold"),
        ('{x-a: "${client_certificate/pem}"}', "never known on a route that ignores certificates"),
    ],
)
def test_a_header_that_cannot_be_filled_breaks_its_route(folder: Path, headers: str, message: str):
    loaded = load(write(folder, with_route(f"set_request_headers: {headers}")))
    assert message in "\n".join(problem.render() for problem in loaded.problems)
