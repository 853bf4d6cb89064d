"""Keeps the certificates of a split deployment up: ``keys renew --watch``, and each plane's files to where the plane looks."""

import shutil
import sys
import time
from pathlib import Path

from doorward.cli.keys import certificate_life
from doorward.clock import SystemClock
from doorward.keys.plane_authority import open_authority
from doorward.rpc.planes import Plane


def main() -> None:
    master, life, planes = Path(sys.argv[1]) / "planes", certificate_life(sys.argv[2]), sys.argv[3]
    homes = [entry.rsplit("=", 1) for entry in planes.split(",")]
    while True:
        with open_authority(master, SystemClock()) as authority:
            made = {item.plane for item in authority.renew(tuple(Plane), life)}
            for home, plane in homes:
                if plane in made:
                    for name in ("tls.key", "tls.crt", "ca.crt"):
                        target = Path(home) / "planes" / plane / name
                        scratch = target.with_suffix(".new")
                        shutil.copy(master / plane / name, scratch)
                        scratch.replace(target)
        time.sleep(0.5)  # between two looks at the clock


if __name__ == "__main__":
    main()
