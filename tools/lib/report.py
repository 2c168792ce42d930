"""What a comparison says: figures with their spread, ratios held against goals, tables in
markdown."""

import statistics
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

NOISE_MOST = 0.05
PAGE_COLUMNS_MAX = 100
NOT_QUIET = "**Not a quiet machine**: of these figures only the ratios of processor time mean something."

LATENCY_HEAD = ["", "p50", "p99", "p99.9", "max"]


@dataclass(frozen=True)
class Figure:
    """The median over the rounds, the least and the greatest."""

    median: float
    least: float
    greatest: float

    @staticmethod
    def of(values):
        return Figure(statistics.median(values), min(values), max(values))

    def show(self, form=",.0f", unit=1.0):
        median, least, greatest = (format(value / unit, form) for value in (self.median, self.least, self.greatest))
        return median if least == greatest else f"{median} ({least}..{greatest})"


@dataclass(frozen=True)
class Goal:
    """The median of remora's ratio to a peer is to be no more than this."""

    scenario: str
    peer: str
    most: float


@dataclass(frozen=True)
class Verdict:
    """What became of a goal."""

    goal: Goal
    ratio: Figure
    is_reached: bool

    def show(self):
        return f"{self.ratio.show('.3f')}; goal {self.goal.most:.2f}: {'reached' if self.is_reached else 'missed'}"


def verdicts(goals, ratios_by_scenario):
    """On every goal for which there is a ratio."""
    measured = [(goal, ratios_by_scenario.get(goal.scenario, {}).get(goal.peer)) for goal in goals]
    return [Verdict(goal, ratio, ratio.median <= goal.most) for goal, ratio in measured if ratio]


def figures_of(rounds):
    """For every server, every number that its rounds have."""
    of_rounds = lambda server, key: Figure.of([one[server][key] for one in rounds])
    is_number = lambda value: isinstance(value, (int, float))
    return {
        server: {key: of_rounds(server, key) for key, value in first.items() if is_number(value)}
        for server, first in rounds[0].items()
    }


def ratios(rounds, name, peer, key):
    """One server's value over another's, round by round."""
    return Figure.of([one[name][key] / one[peer][key] for one in rounds])


def against_peers(rounds, key):
    """remora's ratio to every other server."""
    peers = [name for name in rounds[0] if name != "remora" and "remora" in rounds[0]]
    return {peer: ratios(rounds, "remora", peer, key) for peer in peers}


def show_ratio(summary, scenario, peer):
    """How remora's ratio to a peer reads in a table, with the goal if there is one."""
    judged = [one for one in summary["goals"] if (one.goal.scenario, one.goal.peer) == (scenario, peer)]
    ratio = summary["ratios"][scenario].get(peer)
    return judged[0].show() if judged else ratio.show(".3f") if ratio else ""


def section(said, head, rows):
    """What a table is about, the table, and room behind each."""
    return [said, "", table(head, rows), ""]


def table(head, rows):
    """In markdown, but readable where nothing renders it: the first column to the left, figures to
    the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [padded(head, widths), rule, *(padded(row, widths) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def padded(row, widths):
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]


def latency_row(name, figures):
    """Under LATENCY_HEAD, from microseconds."""
    return [name, *(figures[f"{key}_us"].show(".2f", 1000) for key in ("p50", "p99", "p99_9", "max"))]


def behind(figures):
    """A line about requests that were due and never sent. A few always become due at the very
    end."""
    is_late = lambda one: one["unsent"].greatest > one["requests"].median / 1000
    late = [f"{name} {one['unsent'].greatest:,}" for name, one in figures.items() if is_late(one)]
    return (
        [f"Too slow for it: of the requests due these were never sent at worst: {', '.join(late)}.", ""] if late else []
    )


def progress(text):
    """What is going on, for whoever waits for the tables."""
    print(text, file=sys.stderr, flush=True)


def quiet(windows):
    """How much else went on, on the cores of servers and generator, while they were measured."""
    others = Figure.of([one["others_busy_share"] for one in windows])
    stolen = Figure.of([one["stolen_share"] for one in windows])
    said = [f"{figure.median:.1%} (at most {figure.greatest:.1%})" for figure in (others, stolen)]
    told = f"Other work took {said[0]} of the cores' time in a window, a virtual machine's host {said[1]}."
    return f"{told} {NOT_QUIET}" if others.median + stolen.median > NOISE_MOST else told


def wrapped(text):
    """The same text, its prose in lines that a page may have. Headings, tables and indented code
    cannot be broken; no tool writes code in fences."""
    return "\n".join(piece for line in text.split("\n") for piece in pieces(line))


def pieces(line):
    if len(line) <= PAGE_COLUMNS_MAX or line.startswith(("|", "#", "<", "    ")):
        return [line]
    indent = "  " if line.startswith("- ") else ""
    return textwrap.wrap(
        line, PAGE_COLUMNS_MAX, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def place(path, name, text):
    """Put a text where a document has marks for it, in lines as long as a page's may be."""
    begin, end = f"<!-- compare:{name} -->", f"<!-- compare:{name} end -->"
    document = Path(path).read_text()
    if document.count(begin) != 1 or document.count(end) != 1 or document.index(begin) > document.index(end):
        sys.exit(f"{path} has no place for it: it needs the lines {begin} and {end}, once each")
    before, rest = document.split(begin)
    Path(path).write_text(f"{before}{begin}\n{wrapped(text)}\n{end}{rest.split(end)[1]}")
