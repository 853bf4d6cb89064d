"""Doorward's own contracts, generated from ``protos/``; nothing in the sub-packages is edited.

In a source checkout the generated code can fall behind ``protos/``. Importing this package then
raises ``ImportError`` with the command that mends it, so that nobody tests yesterday's contract.
"""

import hashlib
from pathlib import Path


def _verify_fingerprint() -> None:
    package = Path(__file__).resolve().parent
    root = package.parents[2]
    hook = root / "tools" / "build_hook.py"
    if not hook.is_file():
        return  # an installed wheel: code and contracts were packed together
    fingerprint = package / "_fingerprint.txt"
    digest = hashlib.sha256()
    protos = root / "protos"
    for path in sorted(protos.rglob("*.proto")):
        digest.update(path.relative_to(protos).as_posix().encode() + b"\0" + path.read_bytes())
    digest.update(hook.read_bytes())
    if not fingerprint.is_file() or fingerprint.read_text().strip() != digest.hexdigest():
        raise ImportError("the generated contracts do not match `protos/`; run `make generate`")


_verify_fingerprint()
