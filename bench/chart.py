# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG. Bars: time in the guest in times native, shorter is better. Lines: times faster than QEMU, run by run, higher is better."""

import math
from xml.sax.saxutils import escape

WIDTH = 860
LEFT = 230
ROW = 34
TOP = 64
COLOURS = {"guise_x_native": ("Guise", "#1f6feb"), "qemu_x_native": ("QEMU TCG", "#b0b7c3")}
GREY = "#57606a"
LIGHT = "#d8dee4"
PALETTE = ("#1f6feb", "#cf222e", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#0a8a8a", "#bc4c00", "#4d2d00", "#57606a", "#0550ae", "#116329", "#82071e", "#6e7781")


def _text(x, y, text, anchor="start", size=12, colour="#24292f"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _line(x1, y1, x2, y2, colour, width=1):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _head(height, title, subtitle):
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(16, 24, title, size=15),
        _text(16, 44, subtitle, colour=GREY),
    ]


def bars(rows, subtitle):
    """`rows` as figures.py makes them; those without a native figure are left out. A mark on the bar of Guise is the gate."""
    shown = [r for r in rows if r["guise_x_native"] or r["qemu_x_native"]]
    most = max([r[k] for r in shown for k in COLOURS if r[k]] + [2.0])
    decades = math.log10(most * 1.3) - math.log10(0.5)
    height = TOP + ROW * len(shown) + 30

    def x(value):
        return LEFT + (math.log10(max(value, 0.5)) - math.log10(0.5)) / decades * (WIDTH - LEFT - 60)

    out = _head(height, "Time in the guest, times native (logarithmic; shorter is better; | is the gate)", subtitle)
    tick = 0.5
    while tick < most * 1.3:
        out.append(_line(x(tick), TOP - 8, x(tick), height - 24, "#24292f" if tick == 1 else LIGHT))
        out.append(_text(x(tick), height - 8, f"{tick:g}", "middle", 11, GREY))
        tick *= 2
    for i, row in enumerate(shown):
        y = TOP + i * ROW
        out.append(_text(LEFT - 8, y + 18, row["title"], "end"))
        for j, (key, (_, colour)) in enumerate(COLOURS.items()):
            if row[key]:
                begin, end = sorted((x(1), x(row[key])))
                out.append(f'<rect x="{begin:.1f}" y="{y + j * 13}" width="{max(end - begin, 1):.1f}" height="11" fill="{colour}"/>')
                out.append(_text(max(end, x(1)) + 4, y + j * 13 + 10, f"{row[key]:.2f}", size=10, colour=GREY))
        if row["x_native_gate"]:
            gate = x(row["x_native_gate"])
            out.append(_line(gate, y - 2, gate, y + 13, "#cf222e", 2))
    legend = WIDTH - 190
    for label, colour in COLOURS.values():
        out.append(f'<rect x="{legend}" y="34" width="11" height="11" fill="{colour}"/>')
        out.append(_text(legend + 16, 44, label))
        legend += 80
    out.append("</svg>")
    return "\n".join(out) + "\n"


def lines(entries, titles, subtitle):
    """`entries` of the history, oldest first; a line for each group in `titles`."""
    series = {name: [(i, e["groups"][name][1]) for i, e in enumerate(entries) if e["groups"].get(name, [None, None])[1]] for name in titles}
    values = [v for points in series.values() for _, v in points]
    low, high = math.log10(min(values + [1.0])), math.log10(max(values + [2.0]) * 1.2)
    bottom, right = 460, WIDTH - 240
    step = (right - 50) / max(len(entries) - 1, 1)

    def y(value):
        return bottom - (math.log10(value) - low) / (high - low) * (bottom - TOP)

    out = _head(bottom + 40, "Times faster than QEMU TCG, run by run (logarithmic; higher is better)", subtitle)
    tick = 2.0 ** math.ceil(low / math.log10(2))
    while math.log10(tick) < high:
        out.append(_line(50, y(tick), right, y(tick), "#24292f" if tick == 1 else LIGHT))
        out.append(_text(44, y(tick) + 4, f"{tick:g}", "end", 11, GREY))
        tick *= 2
    if entries:
        out.append(_text(50, bottom + 24, entries[0]["date"], size=11, colour=GREY))
        out.append(_text(right, bottom + 24, entries[-1]["date"], "end", 11, GREY))
    for i, (name, points) in enumerate(series.items()):
        colour = PALETTE[i % len(PALETTE)]
        path = " ".join(f"{50 + n * step:.1f},{y(v):.1f}" for n, v in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{50 + n * step:.1f}" cy="{y(v):.1f}" r="3" fill="{colour}"/>' for n, v in points]
        out.append(f'<rect x="{right + 16}" y="{TOP + i * 20 - 9}" width="11" height="11" fill="{colour}"/>')
        out.append(_text(right + 32, TOP + i * 20, titles[name], size=11))
    out.append("</svg>")
    return "\n".join(out) + "\n"
