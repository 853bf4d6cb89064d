"""Criteria about when: ``date``, ``day_of_week`` and ``time_of_day``. Wall clocks, so that daylight saving is the zone's matter.

A time that the clocks skip is passed at the moment of the change; a time that they show twice counts both times.
"""

import datetime as dt
import re
from collections.abc import Iterable
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from doorward.policy.criteria.families import plain_key
from doorward.policy.criteria.port import Criterion, Fact, Finding, Key, Operand, Parameter, Several, Test
from doorward.policy.facts import Facts
from doorward.policy.nodes import Comparison, Matcher, Term
from doorward.policy.truth import Truth
from doorward.source import suggestion

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DATE = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[Tt ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?)(Z|z|[+-][0-9]{2}:[0-9]{2})?)?\Z",
    re.ASCII,
)
_CLOCK = re.compile(r"([0-9]{1,2})(?::([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?)?(?: ?([AaPp])[Mm])?\Z", re.ASCII)
_HOUR = 3600.0
_DAY = 24 * _HOUR


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones()) - {"localtime"}


def _zone_name(text: str) -> str:
    if text not in _zone_names():
        hint = suggestion(text, _zone_names()) or "expected a name such as `Europe/Madrid` or `UTC`"
        raise ValueError(f"`{text}` is no time zone: {hint}")
    return text


def _moment(text: str) -> str:
    match = _DATE.match(text)
    if match is None:
        raise ValueError(
            f"`{text}` is no date: expected `2030-01-31` or `2030-01-31T16:20:00`, with `Z` or `+01:00` or without"
        )
    day, clock, offset = match.groups()
    try:
        moment = dt.datetime.fromisoformat(f"{day}T{clock or '00:00'}{(offset or '').upper().replace('Z', '+00:00')}")
    except ValueError as error:
        raise ValueError(f"`{text}` is no date: {error}") from error
    if moment.tzinfo is not None:
        moment = moment.astimezone(dt.UTC)
    return moment.isoformat()


def _timestamp(text: str, zone: ZoneInfo) -> float:
    moment = dt.datetime.fromisoformat(text)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)).timestamp()


def _clock(text: str) -> str:
    match = _CLOCK.match(text)
    expected = f"`{text}` is no time of day: expected `15:04`, `15:04:05` or `3:04 PM`"
    if match is None or (match[2] is None and match[5] is None):
        raise ValueError(expected)
    hour, minute, second = int(match[1]), int(match[2] or 0), int(match[3] or 0)
    if match[5] is not None:
        if not 1 <= hour <= 12:
            raise ValueError(expected)
        hour = hour % 12 + (12 if match[5] in "Pp" else 0)
    try:
        return dt.time(hour, minute, second, int((match[4] or "").ljust(6, "0")[:6])).isoformat()
    except ValueError as error:
        raise ValueError(expected) from error


def _days(text: str) -> str:
    """Names of days in the order of the week, separated by commas."""
    if text == "*":
        return "*"
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        start = _day(first.strip(), text)
        end = _day(last.strip(), text) if dash else start
        found.update((start + step) % 7 for step in range((end - start) % 7 + 1))
    return "*" if len(found) == 7 else ",".join(DAYS[day] for day in sorted(found))


def _day(word: str, text: str) -> int:
    for number, name in enumerate(DAYS):
        if word.lower() in {name, name[:3]}:
            return number
    raise ValueError(f"`{text}` names no days: expected `mon,wed`, `mon-fri` or `*`")


def _zone(term: Term) -> ZoneInfo:
    return ZoneInfo((term.operands("timezone") or ("UTC",))[0])


def _local(facts: Facts, zone: ZoneInfo) -> dt.datetime:
    return dt.datetime.fromtimestamp(facts.now, zone)


def next_on_the_wall(now: float, zone: ZoneInfo, clocks: Iterable[dt.time]) -> float:
    """The earliest time after ``now`` at which clocks in ``zone`` pass one of ``clocks``, or are changed."""
    local = dt.datetime.fromtimestamp(now, zone)
    wanted = tuple(clocks)
    passes = (
        dt.datetime.combine(local.date() + dt.timedelta(days=day), clock, zone).replace(fold=fold).timestamp()
        for day in range(3)
        for clock in wanted
        for fold in (0, 1)
    )
    earliest = min((moment for moment in passes if moment > now), default=now + _DAY)
    start = now
    while start < earliest:
        end = min(start + _HOUR, earliest)
        if _offset(start, zone) != _offset(end, zone):
            return min(earliest, _change_between(start, end, zone))
        start = end
    return earliest


def _offset(moment: float, zone: ZoneInfo) -> dt.timedelta | None:
    return dt.datetime.fromtimestamp(moment, zone).utcoffset()


def _change_between(start: float, end: float, zone: ZoneInfo) -> float:
    """When between the two the clocks are changed; offsets change on whole seconds."""
    before = _offset(start, zone)
    low, high = int(start), int(end) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(middle, zone) == before:
            low = middle
        else:
            high = middle
    return float(high)


# date


def _bounds(term: Term) -> tuple[float | None, float | None]:
    zone = _zone(term)
    after, before = term.operands("after"), term.operands("before")
    return _timestamp(after[0], zone) if after else None, _timestamp(before[0], zone) if before else None


def _date(term: Term, facts: Facts) -> Finding:
    after, before = _bounds(term)
    holds = (after is None or facts.now >= after) and (before is None or facts.now < before)
    return Finding(Truth.of(holds), _local(facts, _zone(term)).isoformat(timespec="seconds"))


def _prepare_date(term: Term) -> Test:
    after, before = _bounds(term)
    start = float("-inf") if after is None else after
    end = float("inf") if before is None else before
    return lambda facts: Truth.TRUE if start <= facts.now < end else Truth.FALSE


def _next_date(term: Term, facts: Facts) -> float | None:
    return min((moment for moment in _bounds(term) if moment is not None and moment > facts.now), default=None)


# day_of_week


def _weekdays(term: Term) -> frozenset[int]:
    words = {word for text in term.operands("") for word in text.split(",")}
    return frozenset(range(7)) if "*" in words else frozenset(DAYS.index(word) for word in words)


def _day_of_week(term: Term, facts: Facts) -> Finding:
    today = _local(facts, _zone(term)).weekday()
    return Finding(Truth.of(today in _weekdays(term)), DAYS[today])


def _prepare_day_of_week(term: Term) -> Test:
    zone, days = _zone(term), _weekdays(term)
    return lambda facts: Truth.TRUE if dt.datetime.fromtimestamp(facts.now, zone).weekday() in days else Truth.FALSE


def _next_day(term: Term, facts: Facts) -> float | None:
    return next_on_the_wall(facts.now, _zone(term), [dt.time(0)])


# time_of_day


def _clocks(term: Term) -> tuple[dt.time, dt.time | None]:
    after, before = term.operands("after"), term.operands("before")
    return (
        dt.time.fromisoformat(after[0]) if after else dt.time(0),
        dt.time.fromisoformat(before[0]) if before else None,
    )


def _time_of_day(term: Term, facts: Facts) -> Finding:
    after, before = _clocks(term)
    local = _local(facts, _zone(term))
    now = local.time()
    if before is None:
        holds = now >= after
    elif after < before:
        holds = after <= now < before
    else:
        holds = now >= after or now < before
    return Finding(Truth.of(holds), local.isoformat(timespec="seconds"))


def _prepare_time_of_day(term: Term) -> Test:
    zone = _zone(term)
    after, before = _clocks(term)
    over_midnight = before is not None and not after < before
    from_timestamp = dt.datetime.fromtimestamp

    def run(facts: Facts) -> Truth:
        now = from_timestamp(facts.now, zone).time()
        if over_midnight:
            return Truth.TRUE if now >= after or now < before else Truth.FALSE  # type: ignore[operator]  # it is over midnight
        return Truth.TRUE if now >= after and (before is None or now < before) else Truth.FALSE

    return run


def _next_clock(term: Term, facts: Facts) -> float | None:
    after, before = _clocks(term)
    return next_on_the_wall(facts.now, _zone(term), {after, before or dt.time(0), dt.time(0)})


def _needs_bound(matchers: tuple[Matcher, ...]) -> str | None:
    if not any(matcher.field in {"after", "before"} for matcher in matchers):
        return "needs `after`, `before` or both"
    return None


def _check_date(matchers: tuple[Matcher, ...]) -> str | None:
    found = {matcher.field: matcher.operand[0] for matcher in matchers}
    zone = ZoneInfo(found.get("timezone", "UTC"))
    if "after" in found and "before" in found and _timestamp(found["after"], zone) >= _timestamp(found["before"], zone):
        return "can never hold: `before` is not after `after`"
    return _needs_bound(matchers)


def _check_clock(matchers: tuple[Matcher, ...]) -> str | None:
    found = {matcher.field: matcher.operand[0] for matcher in matchers}
    if "timezone" not in found:
        return "needs a `timezone`, such as `Europe/Madrid` or `UTC`"
    if "after" in found and found.get("after") == found.get("before"):
        return "holds all day or never: `after` and `before` are the same"
    return _needs_bound(matchers)


def _check_days(matchers: tuple[Matcher, ...]) -> str | None:
    return None if any(matcher.field == "" for matcher in matchers) else "needs `in` with days, such as `mon-fri`"


_ZONE = plain_key(Parameter(canonical=_zone_name), summary="Time zone by name; `UTC` without it.")
_TIME = frozenset({Fact.TIME})

DATE = Criterion(
    name="date",
    operand=Operand.KEYS,
    summary="Holds from `after` on and until just before `before`.",
    detail="Dates are ISO 8601, with an offset, or as clocks in `timezone` show them.",
    example="date: {after: 2030-01-01, before: 2031-01-01, timezone: Europe/Madrid}",
    cases="""
policy:
  - allow: {and: [{date: {after: 2030-01-01, before: "2030-07-01T12:00:00", timezone: Europe/Madrid}}]}
cases:
  - {time: "2029-12-31T22:59:59Z", effect: deny, reasons: [date-unauthorized]}
  - {time: "2029-12-31T23:00:00Z", effect: allow, reasons: [date-ok]}
  - {time: "2030-07-01T09:59:59Z", effect: allow, reasons: [date-ok]}
  - {time: "2030-07-01T10:00:00Z", effect: deny, reasons: [date-unauthorized]}
""",
    reads=_TIME,
    success="date-ok",
    failure="date-unauthorized",
    unknown="date-unknown",
    keys={
        "after": plain_key(Parameter(canonical=_moment), summary="First moment."),
        "before": plain_key(Parameter(canonical=_moment), summary="First moment that is too late."),
        "timezone": _ZONE,
    },
    in_ppl=True,
    check=_check_date,
    prepare=_prepare_date,
    find=_date,
    next_change=_next_date,
)
DAY_OF_WEEK = Criterion(
    name="day_of_week",
    operand=Operand.KEYS,
    summary="Holds on the days that it names, in its time zone.",
    detail="Days are `mon` or `monday`, several with commas, a range with a dash; `*` is every day.",
    example="day_of_week: mon-fri",
    cases="""
policy:
  - allow: {and: [{day_of_week: {in: "mon-wed,fri", timezone: Pacific/Auckland}}]}
cases:
  - {time: "2030-03-03T10:59:59Z", effect: deny, reasons: [day-of-week-unauthorized]}
  - {time: "2030-03-03T11:00:00Z", effect: allow, reasons: [day-of-week-ok]}
  - {time: "2030-03-06T12:00:00Z", effect: deny, reasons: [day-of-week-unauthorized]}
""",
    reads=_TIME,
    success="day-of-week-ok",
    failure="day-of-week-unauthorized",
    unknown="day-of-week-unknown",
    keys={
        "": Key(comparisons={Comparison.IN: Parameter(canonical=_days, several=Several.SOME)}, default=Comparison.IN),
        "timezone": _ZONE,
    },
    in_ppl=True,
    check=_check_days,
    prepare=_prepare_day_of_week,
    find=_day_of_week,
    next_change=_next_day,
)
TIME_OF_DAY = Criterion(
    name="time_of_day",
    operand=Operand.KEYS,
    summary="Holds from `after` on and until just before `before`, as clocks in `timezone` show it.",
    detail="When `before` is earlier than `after`, it holds over midnight. Times are `15:04`, `15:04:05` or `3:04 PM`.",
    example='time_of_day: {after: "08:00", before: "18:00", timezone: Europe/Madrid}',
    cases="""
policy:
  - allow: {and: [{time_of_day: {after: "08:00", before: 6 PM, timezone: Europe/Madrid}}]}
  - allow: {and: [{authenticated_user: true}, {time_of_day: {after: "22:00", before: "06:00", timezone: Europe/Madrid}}]}
cases:
  - {principal: {}, time: "2030-01-15T06:59:59Z", effect: deny, reasons: [time-of-day-unauthorized]}
  - {time: "2030-01-15T07:00:00Z", effect: allow, reasons: [time-of-day-ok]}
  - {time: "2030-07-15T06:00:00Z", effect: allow, reasons: [time-of-day-ok]}
  - {principal: {}, time: "2030-01-15T20:59:59Z", effect: deny, reasons: [time-of-day-unauthorized]}
  - {principal: {}, time: "2030-01-15T21:00:00Z", effect: allow, reasons: [time-of-day-ok, user-ok]}
""",
    reads=_TIME,
    success="time-of-day-ok",
    failure="time-of-day-unauthorized",
    unknown="time-of-day-unknown",
    keys={
        "after": plain_key(Parameter(canonical=_clock), summary="First time of day; midnight without it."),
        "before": plain_key(
            Parameter(canonical=_clock), summary="First time of day that is too late; without it until midnight."
        ),
        "timezone": plain_key(Parameter(canonical=_zone_name), summary="Time zone by name; required."),
    },
    in_ppl=True,
    check=_check_clock,
    prepare=_prepare_time_of_day,
    find=_time_of_day,
    next_change=_next_clock,
)
