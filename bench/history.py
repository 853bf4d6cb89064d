"""Drives sign-ins, revokes and requests through a whole deployment while parts fail; looks for one wrong allow.

`--stage one` is one machine, whose parts are killed and stopped; `--stage apart` two of everything over a store behind a sentinel,
whose parts are also cut off from each other. The last line is JSON with `violations`, which must be 0, and how long revokes took to be
applied. `lost` are sessions that ended though nobody had asked for it: on one machine, and with `--confirm all`, there must be none. Apart
there may be otherwise, because one of two replicas confirms: when a failover loses writes that no databroker can name, sessions end.
"""

import argparse
import asyncio
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.deployment import short_folder
from tests.support.echo import echo_server
from tests.support.history import Driver, History, Stage
from tests.support.site import signed_in, site
from tests.support.stages import Apart, OneMachine, apart


@contextmanager
def one(folder: Path, routes: list[dict[str, Any]]) -> Iterator[Stage]:
    with site(folder, routes) as made:
        yield OneMachine(made)


def copy_logs(folder: Path, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for log in (*folder.glob("*/log"), *folder.rglob("console.log")):
        shutil.copy(log, to / f"{log.parent.name}.log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--stage", choices=("one", "apart"), default="one")
    parser.add_argument("--confirm", choices=("one", "all"), default="one", help="how many of two replicas, apart")
    parser.add_argument("--logs", type=Path, help="folder to copy the processes' logs to")
    arguments = parser.parse_args()
    history = History(seed=arguments.seed if arguments.seed is not None else secrets.randbits(32))
    print("seed", history.seed, flush=True)
    open_stage = one if arguments.stage == "one" else apart
    with echo_server("live") as upstream, short_folder() as folder:
        routes = [{"name": "live", "from": "live", "to": f"http://127.0.0.1:{upstream.port}", "policy": signed_in()}]
        with open_stage(folder, routes) as stage:
            if isinstance(stage, Apart) and arguments.confirm == "all":
                stage.confirm_by_all()
            asyncio.run(Driver(stage, history).run(arguments.seconds, faults=True))
        if arguments.logs is not None:
            copy_logs(folder, arguments.logs)
    for text in (*history.violations, *(f"{name}: lost" for name in history.lost)):
        print(text)
    for fault in history.faults:
        print(fault)
    times = sorted(history.applied)
    print(
        json.dumps(
            {
                "violations": len(history.violations),
                "lost": len(history.lost),
                "people": history.people,
                "allowed": history.allowed,
                "refused": history.refused,
                "faults": len(history.faults),
                "revokes_applied": len(times),
                "revokes_pending": history.pending,
                "revokes_failed": history.failed,
                "applied_p50_ms": round(times[len(times) // 2] * 1000, 1) if times else None,
                "applied_p99_ms": round(times[int(len(times) * 0.99)] * 1000, 1) if times else None,
                "applied_max_ms": round(times[-1] * 1000, 1) if times else None,
            }
        )
    )


if __name__ == "__main__":
    main()
