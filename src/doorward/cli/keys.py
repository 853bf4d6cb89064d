"""``doorward keys``."""

from pathlib import Path

from doorward.keys.store import create_missing_keys
from doorward.runtime.folder import private_folder


def init_keys(data: Path) -> int:
    """Make the missing keys below ``data`` and say which."""
    folder = private_folder(data) / "keys"
    created = create_missing_keys(folder)
    print(f"made {', '.join(created)}" if created else "every key is there already")
    return 0
