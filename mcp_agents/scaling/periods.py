"""The calendar of budgets: which stretch of UTC time a moment belongs to. Weeks are ISO weeks and begin on Monday."""

from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

Period = Literal["day", "week", "month", "year", "total"]


class Span(NamedTuple):
    """One window of a period: a name that is safe in a key, its first moment, and the first moment after it.

    The one window of `total` is named `all` and has neither.
    """

    name: str
    start: datetime | None
    end: datetime | None


def span(period: Period, now: datetime) -> Span:
    """The window of `period` that holds `now`, an aware moment."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match period:
        case "day":
            return Span(f"{day:%Y-%m-%d}", day, day + timedelta(days=1))
        case "week":
            year, week, weekday = day.isocalendar()
            monday = day - timedelta(days=weekday - 1)
            return Span(f"{year}-W{week:02}", monday, monday + timedelta(days=7))
        case "month":
            first = day.replace(day=1)
            return Span(f"{day:%Y-%m}", first, (first + timedelta(days=31)).replace(day=1))
        case "year":
            first = day.replace(month=1, day=1)
            return Span(f"{day:%Y}", first, first.replace(year=day.year + 1))
        case "total":
            return Span("all", None, None)
