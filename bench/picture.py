"""Draws figures beside their aims: one bar each, as long as the part of its aim that it uses, so that all may stand in one picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure of a script, by its keys, and what it should be: at most ``limit``, or at least."""

    keys: tuple[str, ...]
    says: str
    limit: float
    at_least: bool = False

    def used(self, value: float) -> float:
        """1 is the limit, less is better."""
        return self.limit / value if self.at_least else value / self.limit


AIMS = (
    Aim(("ext_authz", "ratio_to_ceiling"), "requests/s of those with a fixed reply in C", 0.8, at_least=True),
    Aim(("ext_authz", "cpu_ratio_to_grpcio"), "CPU of a check, of that behind grpcio", 1 / 3),
    Aim(("open_loop", "check", "p50"), "check on its socket, p50 ms", 0.3),
    Aim(("open_loop", "check", "p99"), "check on its socket, p99 ms", 3.0),
    Aim(("changes", "promised_minute", "p50"), "check in the promised minute, p50 ms", 0.3),
    Aim(("changes", "promised_minute", "p99"), "check in the promised minute, p99 ms", 3.0),
    Aim(("changes", "promised_minute", "p999"), "check in the promised minute, p99.9 ms", 20.0),
    Aim(("revocation", "deny_p99_ms"), "revoke applied → denied, p99 ms", 100.0),
    Aim(("revocation", "stream_close_p99_ms"), "revoke applied → stream ended, p99 ms", 150.0),
    Aim(("scale", "ratio_routes"), "check with 10,000 routes, of one with 10", 1.3),
    Aim(("scale", "ratio_sessions"), "decision in the largest replica, of one with 1,000 sessions", 1.3),
    Aim(("scale", "bytes_a_session"), "bytes of a session with its user", 512.0),
    Aim(("scale", "cold_start_s"), "replica of 100,000 sessions ready, s", 5.0),
    Aim(("databroker", "put_ratio_store"), "a put, of the bare script", 1.5),
    Aim(("databroker", "put_ratio_rpc"), "Put over gRPC, of that and an empty call", 1.5),
    Aim(("databroker", "watch_p99_ms"), "100 watchers, 1,000 changes/s, p99 ms", 15.0),
    Aim(("databroker", "snapshot_records_per_s"), "snapshot, records/s", 50_000.0, at_least=True),
    Aim(("xds", "change_p99_ms"), "one of 10,000 hosts changed → served, p99 ms", 500.0),
)


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write an SVG with every aim whose figure is there."""
    rows = [(aim, value) for aim in AIMS if (value := _value(figures, aim.keys)) is not None]
    picture = Figure(figsize=(10, 1 + 0.34 * len(rows)), layout="constrained")
    axes = picture.add_subplot()
    used = [aim.used(value) for aim, value in rows]
    colours = ["#2a7f4f" if part <= 1 else "#b3432b" for part in used]
    bars = axes.barh([aim.says for aim, _ in rows], [min(part, 2.0) for part in used], color=colours)
    axes.bar_label(
        bars, [f" {_short(value)}  (aim {'≥' if aim.at_least else '≤'} {_short(aim.limit)})" for aim, value in rows]
    )
    axes.axvline(1.0, color="#555555", linewidth=1)
    axes.set_xlim(0, 2.4)
    axes.set_xticks([0, 0.5, 1.0], ["0", "half", "aim"])
    axes.invert_yaxis()
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    machine = figures["machine"]
    axes.set_title(
        f"{machine['commit']}, {machine['date']}: {machine['cores']} cores of {machine['processor']}", fontsize=9
    )
    picture.savefig(path)


def _value(figures: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    found: Any = figures
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) else None


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
