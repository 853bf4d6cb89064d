"""The demo's people. Their passwords are published: they open nothing but a demo on loopback."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoUser:
    """Somebody who can sign in at the demo's identity provider."""

    email: str
    name: str
    password: str
    groups: tuple[str, ...]

    @property
    def subject(self) -> str:
        """The `sub` claim: the local part, which the demo never gives to anybody else."""
        return self.email.partition("@")[0]


DEMO_USERS: tuple[DemoUser, ...] = (
    DemoUser(email="alice@example.com", name="Alice", password="alice-demo", groups=("admins", "eng")),  # noqa: S106  # published
    DemoUser(email="bob@example.com", name="Bob", password="bob-demo", groups=("eng",)),  # noqa: S106  # published
    DemoUser(email="carol@partner.example", name="Carol", password="carol-demo", groups=()),  # noqa: S106  # published
)
