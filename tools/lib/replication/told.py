"""What a section tells: texts, tables, goals with what became of them, plots. As markdown for
documents, as a page for browsers."""

import html
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from lib import report
from lib.report import Figure

STYLE = Path(__file__).with_name("page.css")


def percentile(values, share):
    """The least of the values that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def percentiles(values):
    """p50, p99 and the greatest."""
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "max": max(values)}


@dataclass(frozen=True)
class Held:
    """A goal, and what was measured of it. `of` says which of the rounds' figures is held against
    it."""

    what: str
    figure: Figure
    limit: float
    unit: str = ""
    at_least: bool = False
    of: str = "median"
    form: str = ".3f"

    @property
    def is_reached(self):
        value = getattr(self.figure, self.of)
        return value >= self.limit if self.at_least else value <= self.limit

    def show(self):
        unit = f" {self.unit}" if self.unit else ""
        bound = f"at {'least' if self.at_least else 'most'} {self.limit:g}{unit}"
        how = "" if self.of == "median" else f", {self.of} of the rounds"
        outcome = "reached" if self.is_reached else "**missed**"
        return [self.what, f"{self.figure.show(self.form)}{unit}", f"{bound}{how}", outcome]


@dataclass(frozen=True)
class Table:
    """A table, and what it is about."""

    said: str
    head: list
    rows: list

    def markdown(self):
        return "\n".join(report.section(self.said, self.head, self.rows))

    def page(self):
        line = lambda cells, tag: "".join(f"<{tag}>{rich(cell)}</{tag}>" for cell in cells)
        body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in self.rows)
        return f"<p>{rich(self.said)}</p><table><thead><tr>{line(self.head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


@dataclass
class Told:
    """A section's."""

    title: str
    tables: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    goals: list = field(default_factory=list)
    plots: list = field(default_factory=list)

    def every_table(self):
        goals = Table("Goals.", ["", "measured", "goal", ""], [one.show() for one in self.goals])
        return [*self.tables, *([goals] if self.goals else [])]

    def markdown(self):
        parts = [f"**{self.title}**", ""]
        parts += [table.markdown() for table in self.every_table()]
        parts += [f"- {note}" for note in self.notes]
        return "\n".join(parts).rstrip() + "\n"

    def page(self):
        parts = [f"<section><h2>{rich(self.title)}</h2>"]
        parts += [table.page() for table in self.tables]
        parts += [f"<figure>{plot}</figure>" for plot in self.plots]
        parts += [table.page() for table in self.every_table()[len(self.tables):]]
        parts += ["<ul>", *(f"<li>{rich(note)}</li>" for note in self.notes), "</ul></section>"]
        return "".join(parts)


def rich(text):
    """Escaped; what stands between two stars is bold, between backticks code."""
    safe = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", safe)


def page(title, setting, sections):
    """One page that refers to nothing outside itself."""
    body = "".join(section.page() for section in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE.read_text()}</style></head>'
        f"<body><main><h1>{html.escape(title)}</h1><p>{rich(setting)}</p>{body}</main></body></html>\n"
    )
