"""The version after this one: built as a wheel from a copy of the tree, and installed beside everything that this one runs with.

It has a number of its own, and writes a field into sessions and reports that this version does not know.
"""

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSION = "0.2.0"
NOTE = b"written by the next version"
_COPIED = ("protos", "services", "src", "tools", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
_CHANGES = {
    "pyproject.toml": {'version = "0.1.0"': f'version = "{VERSION}"'},
    "src/doorward/__init__.py": {'"0.1.0"': f'"{VERSION}"'},
    "protos/doorward/api/session/v1/session.proto": {
        "bytes claims_json = 10;": "bytes claims_json = 10;\n  // Of the next version.\n  string note = 1000;"
    },
    "protos/doorward/api/process/v1/process.proto": {
        "int64 certificate_expires_at = 10;": "int64 certificate_expires_at = 10;\n  // Of the next version.\n  string note = 1000;"
    },
    "src/doorward/identity/session.py": {
        "            claims_json=self.claims_json,\n": f'            claims_json=self.claims_json,\n            note="{NOTE.decode()}",\n'
    },
    # Envoy's messages stay as they are, and generating them takes longest.
    "tools/build_hook.py": {'        _generate_envoy(Path(scratch) / "envoy")\n': "", "    _clear(ENVOY_API)\n": ""},
    "src/doorward/runtime/reporter.py": {
        "        self._describe(process)\n": f'        self._describe(process)\n        process.note = "{NOTE.decode()}"\n'
    },
}


def build_next_version(folder: Path) -> Path:
    """The interpreter of an environment in ``folder`` that runs it."""
    tree = folder / "tree"
    tree.mkdir()
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    for name, changes in _CHANGES.items():
        path = tree / name
        text = path.read_text()
        for before, after in changes.items():
            assert text.count(before) == 1, f"`{before}` stands not once in {name}"
            text = text.replace(before, after)
        path.write_text(text)
    uv = Path(sys.executable).with_name("uv")
    _run(uv, "build", "--quiet", "--wheel", "--out-dir", folder, tree)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "venv"
    _run(uv, "venv", "--quiet", "--python", sys.executable, environment)
    python = environment / "bin" / "python"
    # Its planes start while those of this version answer: they have no cores to spare for compiling it, each for itself.
    _run(uv, "pip", "install", "--quiet", "--no-deps", "--compile-bytecode", "--python", python, wheel)
    # What it depends on is what the tests run with; its own packages come first.
    (own,) = environment.glob("lib/python*/site-packages")
    (own / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return python


def set_contract(python: Path, number: int) -> None:
    """Let that environment's planes speak another contract."""
    (path,) = python.parents[1].glob("lib/python*/site-packages/doorward/rpc/planes.py")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(f"CONTRACT = {number}\n" if line.startswith("CONTRACT = ") else line for line in lines))


def _run(*command: str | Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
