"""The policy reference, written from the criteria: ``python -m doorward.policy.reference > docs/policy/reference.md``."""

from collections.abc import Iterator

from doorward.policy.criteria import CRITERIA
from doorward.policy.criteria.port import Criterion, Key, Operand
from doorward.policy.nodes import Comparison
from doorward.policy.reference_text import CLOSING, INTRODUCTION, ON_ONE, ON_SEVERAL

_GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Anybody", ("accept", "reject")),
    (
        "Who asks",
        (
            "authenticated_user",
            "user",
            "email",
            "domain",
            "groups",
            "claim",
            "authentication",
            "grant",
            "device",
            "record",
        ),
    ),
    (
        "What is asked for",
        ("http_method", "http_path", "http_host", "http_header", "http_query", "cors_preflight"),
    ),
    ("Where from", ("source_ip", "client_certificate", "invalid_client_certificate")),
    ("When", ("date", "day_of_week", "time_of_day")),
)
"""Every criterion, under a heading, in the order of the code; a test holds it to that."""


def reference() -> str:
    """The whole page, as Markdown."""
    by_name = {criterion.name: criterion for criterion in CRITERIA}
    parts = [INTRODUCTION, _matchers(), "## Criteria\n"]
    for heading, names in _GROUPS:
        rows = "\n".join(f"| [`{name}`](#{name}) | {by_name[name].summary} |" for name in names)
        parts.append(f"**{heading}**\n\n| criterion | |\n|---|---|\n{rows}\n")
    parts += [_section(by_name[name]) for _, names in _GROUPS for name in names]
    return "\n".join([*parts, CLOSING])


def _matchers() -> str:
    one = "\n".join(f"| `{comparison}` | {text} |" for comparison, text in ON_ONE.items())
    several = "\n".join(f"| `{comparison}` | {text} |" for comparison, text in ON_SEVERAL.items())
    return (
        f"| on one value | holds when the value |\n|---|---|\n{one}\n\n"
        f"| on several values | holds when |\n|---|---|\n{several}\n"
    )


def _section(criterion: Criterion) -> str:
    lines = [f"### `{criterion.name}`\n", f"{criterion.summary} {criterion.detail}".strip() + "\n"]
    lines += _keys(criterion)
    notes = list(_notes(criterion))
    if notes:
        lines.append(" ".join(notes) + "\n")
    reasons = dict.fromkeys((criterion.success, criterion.failure, criterion.unknown))
    lines.append(f"Reasons: {', '.join(f'`{reason}`' for reason in reasons)}.\n")
    lines.append(f"```yaml\n{criterion.cases.strip()}\n```\n")
    return "\n".join(lines)


def _keys(criterion: Criterion) -> Iterator[str]:
    own = criterion.keys.get("")
    if own is not None and len(own.comparisons) > 1:
        yield f"Matchers: {_comparisons(own)}. A plain value stands for `{own.default}`.\n"
    named = {name: key for name, key in criterion.keys.items() if name}
    if named:
        yield "| key | |\n|---|---|"
        for name, key in named.items():
            several = f" Matchers: {_comparisons(key)}." if len(key.comparisons) > 1 else ""
            yield f"| `{name}` | {key.summary}{several} |"
        yield ""


def _comparisons(key: Key) -> str:
    return ", ".join(f"`{comparison}`" for comparison in key.comparisons)


def _notes(criterion: Criterion) -> Iterator[str]:
    if criterion.takes_true and criterion.operand is not Operand.NOTHING:
        yield "`true` stands for any."
    if criterion.may_be_absent:
        yield "`optional: true` makes an absent value one that does not match, instead of unknown."
    if criterion.folds_case:
        yield "`ignore_case: true` compares ASCII letters without regard to case."
    if not criterion.in_ppl:
        yield "Not one of PPL's."


def documented_comparisons() -> frozenset[Comparison]:
    """The matchers that the page explains."""
    return frozenset(ON_ONE) | frozenset(ON_SEVERAL)


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201  # it is a page for standard output
