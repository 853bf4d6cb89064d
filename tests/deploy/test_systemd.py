"""The systemd units, verified by systemd itself."""

import subprocess
from pathlib import Path

import pytest
from tests.deploy.tools import DEPLOY

UNITS = ("doorward.service", "doorward@.service")


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    """The program is put where this machine has one, since systemd looks for it."""
    text = (DEPLOY / "systemd" / name).read_text().replace("/opt/doorward/bin/doorward", "/bin/true")
    (tmp_path / name).write_text(text)
    instance = name.replace("@.", "@authorize.")
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / instance if "@" not in name else tmp_path / name],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in result.stderr.splitlines() if "doorward" in line]
    assert (result.returncode, said) == (0, [])


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_confined(name: str) -> None:
    lines = (DEPLOY / "systemd" / name).read_text().splitlines()
    for line in ("NoNewPrivileges=true", "ProtectSystem=strict", "ProtectHome=true", "UMask=0077", "Restart=always"):
        assert line in lines
    assert not any(line.startswith("User=root") for line in lines)


def test_the_users_of_the_units_are_made() -> None:
    made = {line.split()[1] for line in (DEPLOY / "systemd" / "doorward.sysusers").read_text().splitlines()[1:]}
    planes = {f"doorward-{plane}" for plane in ("authenticate", "authorize", "proxy", "databroker")}
    assert made == {"doorward", *planes}
