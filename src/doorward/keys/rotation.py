"""Changing the key of one purpose without ending what was made with the old one.

    keys: [a]                      a signs
    add      [a, b]  next: b       b verifies; wait until every plane that holds the purpose has it
    promote  [b, a]                b signs, a still verifies; wait as long as what a signed can live
    retire   [b]
    revoke   drops one key at once, and with it everything that was made with it

Each step writes the file whole; planes take it over within a second.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from doorward.errors import ConfigurationError
from doorward.keys import assertion, code, flow
from doorward.keys.keyring import Keyring
from doorward.keys.store import KeyStore, Purpose, new_key, write_keyring

ENDS = {
    Purpose.SESSION_HANDLE: "everybody whose cookie it sealed signs in again, and their open streams end",
    Purpose.FLOW: "sign-ins that are under way begin again",
    Purpose.ONE_TIME_CODE: "sign-ins that are at their last step begin again",
    Purpose.SERVICE_ACCOUNT: "programs whose tokens were hashed with it need new tokens, and their open streams end",
    Purpose.RECORDS: "every record that it sealed is lost: sessions, users, directories, grants",
    Purpose.PROVIDER_TOKENS: "identity providers can no longer be asked about sessions whose tokens it sealed",
    Purpose.PENDING_SIGN_IN: "people who are at an identity provider begin again",
    Purpose.ASSERTION: (
        "upstreams refuse what it signed once they fetch the public keys again, "
        f"within {assertion.PUBLISHED_SECONDS} s if they keep to the caching header"
    ),
    Purpose.DECISION_FACTS: "hashes in older decision logs can no longer be compared with newer ones",
}
"""What revoking a key of a purpose means to people."""
PUBLISHED_SECONDS = {Purpose.ASSERTION: float(assertion.PUBLISHED_SECONDS)}
"""How long a key must have been public before it signs: whoever verifies may have kept the set without it."""
LIVES_SECONDS = {
    Purpose.ASSERTION: float(assertion.LIFETIME_SECONDS),
    Purpose.FLOW: float(flow.LIFETIME_SECONDS),
    Purpose.ONE_TIME_CODE: float(code.LIFETIME_SECONDS),
}
"""How long what a key has signed lives, where that does not depend on the configuration."""
_MARGIN_SECONDS = 60.0
"""For planes that took the file a moment later, and for clocks that differ."""


@dataclass(frozen=True, slots=True)
class RotationState:
    """Where a rotation stands."""

    keyring: Keyring
    next_id: str | None
    """Id of the key that verifies and is to sign."""
    changed_at: float
    """When the last step was done, in seconds since the Unix epoch; 0 when that is not known."""

    @property
    def ids(self) -> list[str]:
        """Ids of all keys, the signing one first."""
        return self.keyring.ids

    def seconds_left(self, now: float) -> float:
        """How long the next step must still wait, as far as that is known; not positive when it is due."""
        waits = PUBLISHED_SECONDS if self.next_id is not None else LIVES_SECONDS
        seconds = waits.get(Purpose(self.keyring.purpose))
        if seconds is None or len(self.ids) < 2:
            return 0.0
        return self.changed_at + seconds + _MARGIN_SECONDS - now


def read_state(folder: Path, purpose: Purpose) -> RotationState:
    """The keys of a purpose and the step that its rotation has reached.

    Raises:
        ConfigurationError: there is no such key file, or others may read it.
    """
    keyring = KeyStore(folder).keyring(purpose)
    document = json.loads((folder / f"{purpose}.json").read_text())
    next_id, changed_at = document.get("next"), document.get("changed_at")
    return RotationState(
        keyring,
        next_id if next_id in keyring.ids[1:] else None,
        float(changed_at) if isinstance(changed_at, int | float) else 0.0,
    )


def add(folder: Path, purpose: Purpose, now: float) -> str:
    """Add a key that verifies and does not sign yet; returns its id. A second one is not added."""
    state = read_state(folder, purpose)
    if state.next_id is not None:
        return state.next_id
    key = new_key(purpose)
    _write(folder, Keyring(purpose, [*state.keyring.keys, key]), key.id.hex(), now)
    return key.id.hex()


def promote(folder: Path, purpose: Purpose, now: float) -> str:
    """Let the added key sign; returns its id.

    Raises:
        ConfigurationError: none was added.
    """
    state = read_state(folder, purpose)
    if state.next_id is None:
        raise ConfigurationError([f"{folder / f'{purpose}.json'}: error: no key waits to sign"])
    keys = sorted(state.keyring.keys, key=lambda key: key.id.hex() != state.next_id)
    _write(folder, Keyring(purpose, keys), None, now)
    return state.next_id


def retire(folder: Path, purpose: Purpose, now: float) -> list[str]:
    """Drop every key but the signing one and the one that waits; returns the ids of those dropped."""
    state = read_state(folder, purpose)
    keys = [key for key in state.keyring.keys if key.id.hex() in {state.ids[0], state.next_id}]
    _write(folder, Keyring(purpose, keys), state.next_id, now)
    return [name for name in state.ids if name not in {key.id.hex() for key in keys}]


def revoke(folder: Path, purpose: Purpose, key_id: str, now: float) -> None:
    """Drop one key at once; a new one signs if it was the only one.

    Raises:
        ConfigurationError: there is no such key.
    """
    state = read_state(folder, purpose)
    if key_id not in state.ids:
        raise ConfigurationError([f"error: no key `{key_id}` for `{purpose}` (there are {', '.join(state.ids)})"])
    keys = [key for key in state.keyring.keys if key.id.hex() != key_id]
    if not keys:
        keys = [new_key(purpose)]
    next_id = None if state.next_id in {key_id, keys[0].id.hex()} else state.next_id
    _write(folder, Keyring(purpose, keys), next_id, now)


def _write(folder: Path, keyring: Keyring, next_id: str | None, now: float) -> None:
    document = json.loads(keyring.to_json()) | {"changed_at": int(now)}
    if next_id is not None:
        document["next"] = next_id
    write_keyring(folder, keyring, json.dumps(document, indent=2) + "\n")
