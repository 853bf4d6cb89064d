"""Drives sign-ins, revokes and requests through a whole deployment while parts are killed and stopped; looks for one wrong allow.

The last line is JSON with `violations`, which must be 0, and how long revokes took to be applied.
"""

import argparse
import asyncio
import json
import secrets

from tests.support.deployment import short_folder
from tests.support.echo import echo_server
from tests.support.history import Driver, History
from tests.support.site import signed_in, site


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    history = History(seed=arguments.seed if arguments.seed is not None else secrets.randbits(32))
    print("seed", history.seed)
    with echo_server("live") as upstream, short_folder() as folder:
        routes = [{"name": "live", "from": "live", "to": f"http://127.0.0.1:{upstream.port}", "policy": signed_in()}]
        with site(folder, routes) as made:
            asyncio.run(Driver(made, history).run(arguments.seconds, faults=True))
    times = sorted(history.applied)
    for violation in history.violations:
        print(violation)
    print(
        json.dumps(
            {
                "violations": len(history.violations),
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
