"""xs:dateTime, xs:date, xs:time and the durations: reading, writing, order, arithmetic (Functions and Operators 3.1 sections 8 to 10).

Python's datetime cannot be used: it has no time zone on a date, no year 0 or 12000, no more than microseconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import total_ordering
from typing import Any, Final

from .errors import FilterError

# The implicit time zone of section 2.1.2 in minutes: UTC, so that a filter gives the same answer on every agent.
IMPLICIT_ZONE: Final = 0

_ZONE: Final = r"(?P<zone>Z|[+-](?:(?:0[0-9]|1[0-3]):[0-5][0-9]|14:00))?"
_DATE: Final = r"(?P<year>-?(?:[1-9][0-9]{3,8}|0[0-9]{3}))-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12][0-9]|3[01])"
_TIME: Final = r"(?P<hour>[01][0-9]|2[0-3]|24):(?P<minute>[0-5][0-9]):(?P<second>[0-5][0-9](?:\.[0-9]{1,30})?)"
_FORMS: Final = {
    "dateTime": re.compile(f"{_DATE}T{_TIME}{_ZONE}"),
    "date": re.compile(f"{_DATE}{_ZONE}"),
    "time": re.compile(f"{_TIME}{_ZONE}"),
}
_DURATION: Final = re.compile(
    r"(?P<sign>-)?P(?:(?P<years>[0-9]{1,15})Y)?(?:(?P<months>[0-9]{1,15})M)?(?:(?P<days>[0-9]{1,15})D)?"
    r"(?P<t>T(?:(?P<hours>[0-9]{1,15})H)?(?:(?P<minutes>[0-9]{1,15})M)?(?:(?P<seconds>[0-9]{1,15}(?:\.[0-9]{1,30})?)S)?)?"
)
_DAYS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _month_days(year: int, month: int) -> int:
    return 29 if month == 2 and _leap(year) else _DAYS[month - 1]


def _days(year: int, month: int, day: int) -> int:
    """Days since 0001-01-01 in the proleptic Gregorian calendar."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 306


def _date(days: int) -> tuple[int, int, int]:
    days += 306
    era, of_era = divmod(days, 146097)
    year_of_era = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + (3 if shifted < 10 else -9)
    return year_of_era + era * 400 + (month <= 2), month, of_year - (153 * shifted + 2) // 5 + 1


@total_ordering
class DateTime:
    """A point in time of type dateTime, date or time; `zone` in minutes, None where none is given."""

    __slots__ = ("day", "hour", "minute", "month", "second", "type", "year", "zone")

    def __init__(self, kind: str, year: int, month: int, day: int, hour: int, minute: int, second: Decimal, zone: int | None) -> None:
        self.type = kind
        self.year, self.month, self.day = year, month, day
        self.hour, self.minute, self.second = hour, minute, second
        self.zone = zone

    def instant(self) -> Decimal:
        """Seconds since 0001-01-01T00:00:00Z."""
        zone = IMPLICIT_ZONE if self.zone is None else self.zone
        minutes = _days(self.year, self.month, self.day) * 1440 + self.hour * 60 + self.minute - zone
        return minutes * 60 + self.second

    @staticmethod
    def at(kind: str, instant: Decimal, zone: int | None) -> DateTime:
        """The point in time that lies `instant` seconds after 0001-01-01T00:00:00Z, seen in `zone`."""
        shift = IMPLICIT_ZONE if zone is None else zone
        whole = int(instant.to_integral_value(rounding="ROUND_FLOOR"))
        fraction = instant - whole
        days, rest = divmod(whole + shift * 60, 86400)
        if abs(days) > 10**11:
            raise FilterError("FODT0001")
        if kind == "time":
            days = _days(1972, 12, 31)
        hour, rest = divmod(rest, 3600)
        minute, second = divmod(rest, 60)
        if kind == "date":
            hour, minute, second, fraction = 0, 0, 0, Decimal(0)
        return DateTime(kind, *_date(days), hour, minute, second + fraction, zone)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DateTime) and self.type == other.type and self.instant() == other.instant()

    def __lt__(self, other: DateTime) -> bool:
        return self.instant() < other.instant()

    def __hash__(self) -> int:
        return hash((self.type, self.instant()))

    def __str__(self) -> str:
        date = f"{'-' if self.year < 0 else ''}{abs(self.year):04d}-{self.month:02d}-{self.day:02d}"
        second = format(self.second, "f")
        if "." in second:
            second = second.rstrip("0").rstrip(".")
        if self.second < 10:
            second = "0" + second
        time = f"{self.hour:02d}:{self.minute:02d}:{second}"
        text = {"date": date, "time": time, "dateTime": f"{date}T{time}"}[self.type]
        return text + _zone_text(self.zone)

    def cast(self, target: str) -> DateTime:
        """As another of the three types (section 19.1.3)."""
        if target == self.type:
            return self
        if self.type == "dateTime":
            if target == "date":
                return DateTime(target, self.year, self.month, self.day, 0, 0, Decimal(0), self.zone)
            return DateTime(target, 1972, 12, 31, self.hour, self.minute, self.second, self.zone)
        if self.type == "date" and target == "dateTime":
            return DateTime(target, self.year, self.month, self.day, 0, 0, Decimal(0), self.zone)
        raise FilterError("XPTY0004", f"An xs:{self.type} cannot be cast to xs:{target}")

    def plus(self, duration: Duration, sign: int) -> DateTime:
        """Section 9.7: months first, then seconds."""
        if self.type == "time" and duration.type != "dayTimeDuration":
            raise FilterError("XPTY0004", f"An xs:{duration.type} cannot be added to an xs:time")
        if duration.type == "yearMonthDuration":
            months = self.year * 12 + self.month - 1 + sign * duration.months
            year, month = divmod(months, 12)
            if abs(year) > 10**9:
                raise FilterError("FODT0001")
            day = min(self.day, _month_days(year, month + 1))
            return DateTime(self.type, year, month + 1, day, self.hour, self.minute, self.second, self.zone)
        return DateTime.at(self.type, self.instant() + sign * duration.seconds, self.zone)

    def in_zone(self, zone: int | None) -> DateTime:
        """Adjusted to a time zone (section 9.6); None takes it away."""
        if self.zone is None or zone is None:
            fields = (self.year, self.month, self.day, self.hour, self.minute, self.second)
            return DateTime(self.type, *fields, zone)
        return DateTime.at(self.type, self.instant(), zone)


def _zone_text(zone: int | None) -> str:
    if zone is None:
        return ""
    if zone == 0:
        return "Z"
    return f"{'-' if zone < 0 else '+'}{abs(zone) // 60:02d}:{abs(zone) % 60:02d}"


def parse_datetime(kind: str, text: str) -> DateTime:
    """Reads an xs:dateTime, xs:date or xs:time (XML Schema 1.1 part 2, 3.3.7 to 3.3.9)."""
    found = _FORMS[kind].fullmatch(text.strip(" \t\r\n"))
    if found is None:
        raise FilterError("FORG0001", f"{text[:60]!r} is not an xs:{kind}")
    parts: dict[str, Any] = found.groupdict()
    year, month, day = int(parts.get("year") or 1972), int(parts.get("month") or 12), int(parts.get("day") or 31)
    hour, minute, second = int(parts.get("hour") or 0), int(parts.get("minute") or 0), Decimal(parts.get("second") or 0)
    if day > _month_days(year, month) or (hour == 24 and (minute or second)):
        raise FilterError("FORG0001", f"{text[:60]!r} is not an xs:{kind}")
    zone = parts["zone"]
    offset = None
    if zone is not None:
        offset = 0 if zone == "Z" else (-1 if zone[0] == "-" else 1) * (int(zone[1:3]) * 60 + int(zone[4:6]))
    if hour == 24:
        hour = 0
        if kind == "dateTime":
            year, month, day = _date(_days(year, month, day) + 1)
    return DateTime(kind, year, month, day, hour, minute, second, offset)


@dataclass(frozen=True, slots=True, eq=False)
class Duration:
    """xs:duration, xs:dayTimeDuration or xs:yearMonthDuration as months and seconds of one sign."""

    type: str
    months: int
    seconds: Decimal

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and (self.months, self.seconds) == (other.months, other.seconds)

    def __hash__(self) -> int:
        return hash((self.months, self.seconds))

    def __str__(self) -> str:
        sign = "-" if self.months < 0 or self.seconds < 0 else ""
        years, months = divmod(abs(self.months), 12)
        minutes, second = divmod(abs(self.seconds), 60)
        hours, minute = divmod(int(minutes), 60)
        days, hour = divmod(hours, 24)
        text = (f"{years}Y" if years else "") + (f"{months}M" if months else "") + (f"{days}D" if days else "")
        fraction = format(second, "f")
        fraction = fraction.rstrip("0").rstrip(".") if "." in fraction else fraction
        time = (f"{hour}H" if hour else "") + (f"{minute}M" if minute else "") + (f"{fraction}S" if second else "")
        if time:
            text += "T" + time
        return f"{sign}P{text}" if text else ("P0M" if self.type == "yearMonthDuration" else "PT0S")

    def cast(self, target: str) -> Duration:
        """As another duration type (section 19.1.4): the parts it has no room for are dropped."""
        months = 0 if target == "dayTimeDuration" else self.months
        seconds = Decimal(0) if target == "yearMonthDuration" else self.seconds
        return Duration(target, months, seconds)


def parse_duration(kind: str, text: str) -> Duration:
    """Reads a duration (XML Schema 1.1 part 2, 3.3.6, 3.4.26, 3.4.27)."""
    found = _DURATION.fullmatch(text.strip(" \t\r\n"))
    parts: dict[str, Any] = found.groupdict() if found else {}
    numbers = {name: parts[name] for name in parts if name not in ("sign", "t") and parts[name] is not None}
    wrong = not numbers or parts["t"] == "T"
    if kind == "dayTimeDuration":
        wrong = wrong or "years" in numbers or "months" in numbers
    elif kind == "yearMonthDuration":
        wrong = wrong or bool(set(numbers) - {"years", "months"})
    if wrong:
        raise FilterError("FORG0001", f"{text[:60]!r} is not an xs:{kind}")
    months = int(numbers.get("years", 0)) * 12 + int(numbers.get("months", 0))
    minutes = (int(numbers.get("days", 0)) * 24 + int(numbers.get("hours", 0))) * 60 + int(numbers.get("minutes", 0))
    seconds = minutes * 60 + Decimal(numbers.get("seconds", 0))
    sign = -1 if parts["sign"] else 1
    return Duration(kind, sign * months, sign * seconds)
