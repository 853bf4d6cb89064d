"""Settings that the proxy's tests share: one for each kind of thing that can be configured."""

from pathlib import Path

from tests.support.envoy import route, settings_of

from doorward.config.settings import Settings, TracingSettings
from doorward.keys.local_authority import CertifiedKey
from doorward_proxy.resources.surroundings import Surroundings

CERTIFIED = CertifiedKey(b"certificate", b"key")


def surroundings() -> Surroundings:
    """Sockets that nobody listens on."""
    folder = Path("/run/doorward")
    return Surroundings(
        check_sockets=(folder / "check.0.sock", folder / "check.1.sock"),
        guard_socket=folder / "guard.sock",
        pages_socket=folder / "pages.sock",
        authenticate_socket=folder / "authenticate.sock",
        discovery_socket=folder / "discovery.sock",
        admin_socket=folder / "admin.sock",
        trust_store=Path("/etc/ssl/certs/ca-certificates.crt"),
    )


EXAMPLES: dict[str, Settings] = {
    "empty": settings_of(),
    "one route": settings_of(route()),
    "every kind of match": settings_of(
        route(match="/exact", exact=True), route(match="/prefix"), route(match="/with%20blank"), route()
    ),
    "every kind of upstream": settings_of(
        route("h1.localhost", to=[("http", "127.0.0.1", 9)]),
        route("h2c.localhost", to=[("h2c", "::1", 9)]),
        route("name.localhost", to=[("http", "upstream.example", 80), ("http", "127.0.0.1", 80)]),
        route("tls.localhost", to=[("https", "upstream.example", 443)]),
        route("tls-address.localhost", to=[("https", "127.0.0.1", 8443)], tls_server_name="upstream.example"),
        route("tls-skip.localhost", to=[("https", "::1", 8443)], tls_skip_verify=True),
        route("tls-socket.localhost", to=[("https", "upstream.example", 443)], websocket=True, continuous=True),
    ),
    "every setting": settings_of(
        route(
            set_request_headers=(("x-tenant", "100% ours"), ("x-other", "")),
            remove_request_headers=("x-secret",),
            set_response_headers=(("x-frame-options", "DENY"),),
            claim_headers=(("x-email", "email"),),
            preserve_host=True,
            timeout_seconds=240.0,
        ),
        route("stream.localhost", continuous=True, websocket=True),
        trusted_hops=2,
        max_streams=20_000,
    ),
    "traced": settings_of(
        route(), tracing=TracingSettings(otlp_endpoint="https://collector.example/otlp/", sample=0.01)
    ),
    "tunnels": settings_of(
        route("db.localhost", "5432", to=[("tcp", "127.0.0.1", 9)], tunnel=True, continuous=True),
        route("db.localhost", "22", to=[("tcp", "upstream.example", 22)], tunnel=True, continuous=True),
        route("db.localhost"),
    ),
    "a broken route": settings_of(route(match="/broken", to=(), broken="why"), route()),
    "a broken host": settings_of(route(), broken_hosts=(("app.localhost", "why"), ("gone.localhost", "why"))),
}
