"""The wording of reports: how areas, times, counts, settings and paths are written for people."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from pfmap.report.scene_report import Unit
from pfmap.report.survey_figures import State

STATES: Mapping[State, str] = {"done": "mapped", "skipped": "mapped earlier", "failed": "failed"}


@dataclass(frozen=True, slots=True)
class AreaUnit:
    """A unit for all areas of a page, so that they can be compared at a glance."""

    name: str
    size: float
    """Square metres, or pixels."""
    digits: int
    """Behind the point."""

    @classmethod
    def fitting(cls, largest: float, unit: Unit) -> "AreaUnit":
        """Choose square metres, hectares or square kilometres by the largest area."""
        if unit == "px":
            return cls("px", 1, 0)
        if largest < 1e5:
            return cls("m²", 1, 0)
        return cls("ha", 1e4, 2) if largest < 1e8 else cls("km²", 1e6, 2)

    def write(self, area: float) -> str:
        """Write an area with its unit."""
        return f"{self.number(area)} {self.name}"

    def number(self, area: float) -> str:
        """Write an area without its unit."""
        return f"{area / self.size:,.{self.digits}f}"


def duration(seconds: float) -> str:
    """Write a time on the clock: 4.1 s, 45 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def work(seconds: Mapping[str, float]) -> str:
    """Say how long a scene took, and its stages that took a noticeable part, longest first."""
    total = seconds.get("total", sum(seconds.values()))
    stages = sorted(((value, name) for name, value in seconds.items() if name != "total"), reverse=True)
    shown = [f"{name} {duration(value)}" for value, name in stages if value >= 0.02 * total]
    busy = f", with work for {', '.join(shown)}; stages run at once" if shown else ""
    return f"{duration(total)}{busy}"


def moment(text: str) -> str:
    """Write an ISO 8601 time for people; what is none stays as it is."""
    time = parse_time(text)
    return f"{time:%Y-%m-%d %H:%M} UTC" if time else text


def parse_time(text: str) -> datetime | None:
    """Read an ISO 8601 time, taken as UTC where it names no zone; None if it is none."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def percent(value: float | None) -> str:
    """Write a percentage that may be unknown."""
    return "unknown" if value is None else f"{value:.1f} %"


def share(part: float, total: float) -> str:
    """Write a part of a total in percent; "" where there is nothing in all."""
    return f"{part / total:.1%}".replace("%", " %") if total > 0 else ""


def thousands(count: int) -> str:
    """Write a count with commas between thousands."""
    return f"{count:,}"


def plural(count: int, one: str) -> str:
    """Write a count with its noun."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def fact(value: object) -> str:
    """Write the value of a setting, whatever it is."""
    if value is None or value in ("", [], ()):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "; ".join(f"{label(key)}: {fact(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(fact(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def label(name: str) -> str:
    """Write the name of a fact for people."""
    for ending, unit in (("_m2", ", m²"), ("_m", ", m")):
        name = f"{name.removesuffix(ending)}{unit}" if name.endswith(ending) else name
    return " ".join("GSD" if word == "gsd" else word for word in name.replace("_", " ").split(" "))


def link(path: str) -> str:
    """Return a relative path as the address of a link, byte for byte: also with spaces, #, % or a colon."""
    return quote(os.fsencode(path), safe="/")
