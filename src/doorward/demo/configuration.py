"""The demo's configuration: an ordinary file, written so that people can read, copy and edit it."""

from dataclasses import dataclass

PROVIDER_ID = "demo"
CLIENT_ID = "doorward-demo"
SECRET_FILE = "demo-client-secret"  # noqa: S105  # a file's name


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPorts:
    """Where the demo listens, all on loopback."""

    https: int
    identity_provider: int
    verify: int
    admin: int
    public: int

    @property
    def issuer(self) -> str:
        """The development identity provider; ``localhost`` resolves everywhere, ``*.localhost`` does not."""
        return f"http://localhost:{self.identity_provider}"

    @property
    def redirect_uri(self) -> str:
        """Where the identity provider sends people back to."""
        return f"{self.url('authenticate')}/.doorward/callback/{PROVIDER_ID}"

    def url(self, name: str) -> str:
        """The address of one of the demo's hosts, without a trailing slash."""
        port = "" if self.https == 443 else f":{self.https}"
        return f"https://{name}.localhost{port}"


def demo_configuration(ports: DemoPorts) -> str:
    """The text of the demo's configuration file."""
    return f"""\
# The demo's configuration, written again at each start of `doorward demo`. Copy it to begin your own.
version: 1
listen: 127.0.0.1:{ports.https}
authenticate_url: {ports.url("authenticate")}

identity_providers:
  - id: {PROVIDER_ID}
    name: Demo identity provider
    issuer: {ports.issuer}
    client_id: {CLIENT_ID}
    client_secret: file:{SECRET_FILE}
    scopes: [openid, email, profile, groups]
    email_domains: [example.com, partner.example]
    claims:
      groups: groups
    method_classes:
      otp: mfa

decision_log:
  file: logs/decisions.jsonl

routes:
  # The application below, for whoever has signed in with a code within the last minutes.
  - name: verify-strong
    from: {ports.url("verify")}
    prefix: /strong
    to: http://127.0.0.1:{ports.verify}
    policy:
      - allow:
          and:
            - authentication:
                max_age: 5m
                methods: [otp]

  # Anyone who is signed in; shows what an upstream receives.
  - name: verify
    from: {ports.url("verify")}
    to: http://127.0.0.1:{ports.verify}
    policy:
      - allow:
          and:
            - authenticated_user: true

  # Members of one group.
  - name: admin
    from: {ports.url("admin")}
    to: http://127.0.0.1:{ports.admin}
    claim_headers:
      x-user-email: email
    explanation: This page is for administrators. Ask for membership of the group "admins".
    policy:
      - allow:
          and:
            - groups:
                has: admins

  # Open to everyone, by policy and not by leaving the check out.
  - name: public
    from: {ports.url("public")}
    to: http://127.0.0.1:{ports.public}
    policy:
      - allow:
          or:
            - accept: true
"""
