"""Plots as inline SVG: bars with ranges, percentiles on a logarithmic axis, lines over time with
marks. Pure: figures in, text out."""

import html
import math

WIDTH = 920
LEFT, RIGHT, TOP = 70, 16, 44
PLOT_HEIGHT = 220
COLORS = 5  # page.css has so many
ROW_HEIGHT = 22
LABEL_WIDTH = 250
TICKS = 5


def bars(title, unit, groups):
    """`groups`: (label, [(series, Figure)]). Each bar is the median, its line goes from the least
    to the greatest."""
    series = ordered(name for _, ones in groups for name, _ in ones)
    top = nice(max(figure.greatest for _, ones in groups for _, figure in ones))
    scale = lambda value: TOP + PLOT_HEIGHT * (1 - value / top)
    parts = [*y_axis(top, unit, scale)]
    room = (WIDTH - LEFT - RIGHT) / len(groups)
    for number, (label, ones) in enumerate(groups):
        width = min(40, room * 0.8 / len(ones))
        begin = LEFT + room * (number + 0.5) - width * len(ones) / 2
        for place, (name, figure) in enumerate(ones):
            x, y = begin + place * width, scale(max(0, figure.median))
            middle = x + width / 2
            said = html.escape(f"{label}, {name}: {figure.show(',.4g')} {unit}")
            parts.append(
                f'<rect class="f{series.index(name) % COLORS}" x="{x:.1f}" y="{y:.1f}" width="{width * 0.86:.1f}" '
                f'height="{scale(0) - y:.1f}"><title>{said}</title></rect>'
                f'<line class="range" x1="{middle:.1f}" x2="{middle:.1f}" '
                f'y1="{scale(max(0, figure.greatest)):.1f}" y2="{scale(max(0, figure.least)):.1f}"/>'
            )
        parts.append(text(LEFT + room * (number + 0.5), scale(0) + 18, label, "middle"))
    return svg(title, series, TOP + PLOT_HEIGHT + 30, parts)


def spans(title, unit, rows):
    """`rows`: (label, {name: value}), for example p50, p99 and max: a dot each, on a logarithmic
    axis."""
    series = ordered(name for _, ones in rows for name in ones)
    values = [value for _, ones in rows for value in ones.values() if value > 0]
    low, high = decades(values)
    x_of = lambda value: LABEL_WIDTH + (WIDTH - LABEL_WIDTH - RIGHT - 20) * (math.log10(max(value, 10**low)) - low) / (high - low)
    bottom = TOP + ROW_HEIGHT * len(rows)
    parts = []
    for power in range(low, high + 1):
        x = x_of(10**power)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{bottom}"/>')
        parts.append(text(x, bottom + 16, f"{10**power:,g} {unit}", "middle", "quiet"))
    for number, (label, ones) in enumerate(rows):
        y = TOP + ROW_HEIGHT * (number + 0.5)
        parts.append(text(LABEL_WIDTH - 10, y + 4, label, "end"))
        ends = [x_of(value) for value in ones.values()]
        parts.append(f'<line class="grid" x1="{min(ends):.1f}" x2="{max(ends):.1f}" y1="{y}" y2="{y}"/>')
        for name, value in ones.items():
            said = html.escape(f"{label}, {name}: {value:,.4g} {unit}")
            parts.append(
                f'<circle class="f{series.index(name) % COLORS}" cx="{x_of(value):.1f}" cy="{y}" r="5"><title>{said}</title></circle>'
            )
    return svg(title, series, bottom + 28, parts)


def lines(title, unit, series, marks):
    """`series`: (name, [(seconds, value)]); `marks`: (seconds, what happened then). Both axes begin
    at zero."""
    points = [point for _, ones in series for point in ones]
    end = max([x for x, _ in points] + [x for x, _ in marks])
    top = nice(max(y for _, y in points))
    x_of = lambda seconds: LEFT + (WIDTH - LEFT - RIGHT) * seconds / end
    scale = lambda value: TOP + PLOT_HEIGHT * (1 - value / top)
    parts = [*y_axis(top, unit, scale)]
    step = nice(end / TICKS)
    for seconds in (step * number for number in range(int(end / step) + 1)):
        parts.append(text(x_of(seconds), TOP + PLOT_HEIGHT + 18, f"{seconds:.3g} s", "middle", "quiet"))
    for number, (_, ones) in enumerate(series):
        path = " ".join(f"{x_of(x):.1f},{scale(y):.1f}" for x, y in ones)
        parts.append(f'<polyline class="l{number % COLORS}" points="{path}"/>')
    for number, (seconds, said) in enumerate(marks):
        x = x_of(seconds)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + PLOT_HEIGHT}"/>')
        anchor = "end" if x > WIDTH * 0.8 else "start"
        parts.append(text(x + (-4 if anchor == "end" else 4), TOP + 12 + 14 * number, said, anchor, "mark-text"))
    return svg(title, [name for name, _ in series], TOP + PLOT_HEIGHT + 30, parts)


def ordered(names):
    """Each once, in the order in which they come."""
    return list(dict.fromkeys(names))


def nice(value):
    """The least of 1, 2, 5, 10, 20, ... that is not less: where an axis may end."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def decades(values):
    """Powers of ten around all values, two different ones."""
    low = math.floor(math.log10(min(values, default=1)))
    return low, max(low + 1, math.ceil(math.log10(max(values, default=10))))


def y_axis(top, unit, scale):
    for number in range(TICKS + 1):
        value = top * number / TICKS
        y = scale(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield text(LEFT - 8, y + 4, f"{value:,.6g}", "end", "quiet")
    yield text(LEFT - 8, TOP - 12, unit, "end", "quiet")


def text(x, y, said, anchor="start", kind=""):
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(str(said))}</text>'


def svg(title, series, height, parts):
    """The whole, with its title and what the colors mean."""
    head, x = [text(LEFT, 16, title, kind="title")], WIDTH - RIGHT
    for number, name in reversed(list(enumerate(series))):
        x -= 7 * len(name) + 22
        head.append(f'<rect class="f{number % COLORS}" x="{x}" y="24" width="10" height="10"/>')
        head.append(text(x + 14, 33, name, kind="quiet"))
    label = html.escape(title, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}">{"".join([*head, *parts])}</svg>'
