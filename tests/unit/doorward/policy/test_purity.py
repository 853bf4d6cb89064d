import subprocess
import sys


def test_the_engine_brings_no_transport_and_no_contracts_with_it():
    """What decides must be usable, and provable, without the planes round it."""
    program = "import sys, doorward.policy; print(*sorted(sys.modules), sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    names = set(loaded.stdout.split())
    assert "doorward.policy" in names
    assert not {name for name in names if name.startswith(("google.protobuf", "grpc", "doorward.api", "asyncio"))}
