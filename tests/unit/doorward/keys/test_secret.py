import json
from dataclasses import dataclass

import pytest

from doorward.keys.secret import Secret


@pytest.mark.parametrize("value", ["hunter2", b"hunter2"], ids=["text", "bytes"])
def test_a_secret_never_shows_itself(value):
    """A secret in a traceback or a log line is a secret given away."""

    @dataclass(frozen=True)
    class Holder:
        secret: Secret

    secret = Secret(value)
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{[secret]}",
        repr(Holder(secret)),
        json.dumps({"s": str(secret)}),
    ]

    assert not any("hunter2" in text for text in shown)
    assert secret.reveal() == value


def test_a_secret_has_no_other_way_in():
    secret = Secret("hunter2")

    assert not hasattr(secret, "__dict__")
    with pytest.raises(TypeError):
        json.dumps({"secret": secret})


def test_equality_is_by_value_and_only_among_secrets():
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("é") == Secret("é")
    assert Secret("a") != "a"
    assert len({Secret(b"a"), Secret(b"a")}) == 1
