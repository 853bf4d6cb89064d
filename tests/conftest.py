"""What holds for every test."""

from hypothesis import settings

# Time is measured by benches, in ratios. A deadline here would fail for another process on the same machine.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
