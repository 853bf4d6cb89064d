"""What tests count around kills, changes and partitions; `tests/conftest.py` prints it, wherever a test ran."""

EVENTS: list[str] = []
