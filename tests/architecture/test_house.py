"""The house's rules that a machine can check."""

import importlib.metadata
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("src/doorward/api/", "src/doorward/envoy_api/")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def test_import_contracts_hold():
    """Run from an installed environment, over all five packages."""
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_module_says_what_it_is():
    silent = []
    for path in tracked("src/**/*.py", "services/**/*.py"):
        text = path.read_text()
        if not text.lstrip().startswith(('"""', 'r"""')):
            silent.append(str(path.relative_to(ROOT)))
    assert silent == []


def test_no_file_is_over_500_lines():
    long = {str(p.relative_to(ROOT)): n for p in tracked("*.py") if (n := len(p.read_text().splitlines())) > 500}
    assert long == {}


def test_generated_code_is_not_committed():
    names = [str(path.relative_to(ROOT)) for path in tracked("*_pb2*.py", "*_pb2*.pyi")]
    assert names == []
    for folder in GENERATED:
        assert [path for path in tracked(f"{folder}*") if path.name != "__init__.py"] == []


def test_stale_contracts_are_an_error_that_names_the_command(tmp_path: Path):
    clone = tmp_path / "clone"
    (clone / "src" / "doorward" / "api").mkdir(parents=True)
    (clone / "tools").mkdir()
    (clone / "protos").mkdir()
    for name in ("src/doorward/__init__.py", "src/doorward/api/__init__.py", "tools/build_hook.py"):
        (clone / name).write_text((ROOT / name).read_text())
    (clone / "src/doorward/api/_fingerprint.txt").write_text("yesterday\n")
    result = subprocess.run(
        [sys.executable, "-c", "import doorward.api"],
        cwd=clone / "src",
        env={"PYTHONPATH": str(clone / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "make generate" in result.stderr


def test_no_file_is_owned_by_two_distributions():
    owners: dict[str, set[str]] = defaultdict(set)
    for distribution in importlib.metadata.distributions():
        for file in distribution.files or []:
            name = str(file)
            if ".dist-info" not in name and "__pycache__" not in name and not name.startswith(".."):
                owners[name].add(distribution.metadata["Name"])
    assert {name: sorted(found) for name, found in owners.items() if len(found) > 1} == {}


def test_the_run_time_environment_holds_what_was_chosen_and_nothing_that_collides():
    names = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    assert "httpx" in names
    assert not names & {"httpx2", "xds-protos", "uvicorn"}


@pytest.mark.parametrize(
    "pattern", [r"(?<![\w.])/(?:work|farm|root|home/\w+)/", r"pypi\.org|registry\.npmjs|/simple/", r'"resolved": "http']
)
def test_no_committed_file_names_a_machine_or_an_index(pattern: str):
    found = []
    for path in tracked():
        if path == Path(__file__).resolve():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match.group(0)}" for match in re.finditer(pattern, text)]
    assert found == []


def test_links_between_documents_lead_somewhere():
    broken = []
    for path in tracked("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)\)", path.read_text()):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []


def test_files_named_in_the_documents_exist():
    missing = []
    for path in [ROOT / "docs/life-of-a-request.md", ROOT / "docs/threat-model.md", ROOT / "docs/architecture.md"]:
        for name in re.findall(r"`((?:services|src|tests|tools|docs)/[^`<…]+)`", path.read_text()):
            if not (ROOT / name).exists():
                missing.append(f"{path.name}: {name}")
    assert missing == []


def test_the_readmes_configuration_is_one_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from doorward.config.load import load

    monkeypatch.setenv("DOORWARD_CLIENT_SECRET", "x")
    match = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert match is not None
    (tmp_path / "doorward.yaml").write_text(match.group(1))
    loaded = load(tmp_path / "doorward.yaml")
    assert loaded.settings is not None
    assert [problem.render() for problem in loaded.problems] == []


def test_make_test_runs_every_test():
    (named,) = re.findall(r"^TESTS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    found = {"/".join(path.relative_to(ROOT).parts[:2]) for path in tracked("tests/**/test_*.py")}
    assert sorted(named.split()) == sorted(found)
