# SPDX-License-Identifier: Apache-2.0
"""A bar chart as SVG: how many times slower than native, on a logarithmic axis. Shorter is better."""

import math
from xml.sax.saxutils import escape

WIDTH = 860
LEFT = 230
ROW = 34
TOP = 64
COLOURS = {"guise_x_native": ("Guise", "#1f6feb"), "qemu_x_native": ("QEMU TCG", "#b0b7c3")}


def _text(x, y, text, anchor="start", size=12, colour="#24292f"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def svg(rows, subtitle):
    """`rows` as bench/run.py makes them; those without a native figure are left out."""
    shown = [r for r in rows if r["guise_x_native"] or r["qemu_x_native"]]
    most = max([r[k] for r in shown for k in COLOURS if r[k]] + [2.0])
    decades = math.log10(most * 1.3) - math.log10(0.5)
    height = TOP + ROW * len(shown) + 30

    def x(value):
        return LEFT + (math.log10(max(value, 0.5)) - math.log10(0.5)) / decades * (WIDTH - LEFT - 60)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(16, 24, "Time in the guest, times native (logarithmic; shorter is better)", size=15),
        _text(16, 44, subtitle, colour="#57606a"),
    ]
    tick = 0.5
    while tick < most * 1.3:
        colour = "#24292f" if tick == 1 else "#d8dee4"
        out.append(f'<line x1="{x(tick):.1f}" y1="{TOP - 8}" x2="{x(tick):.1f}" y2="{height - 24}" stroke="{colour}"/>')
        out.append(_text(x(tick), height - 8, f"{tick:g}", "middle", 11, "#57606a"))
        tick *= 2
    for i, row in enumerate(shown):
        y = TOP + i * ROW
        out.append(_text(LEFT - 8, y + 18, row["title"], "end"))
        for j, (key, (_, colour)) in enumerate(COLOURS.items()):
            if row[key]:
                begin, end = sorted((x(1), x(row[key])))
                out.append(f'<rect x="{begin:.1f}" y="{y + j * 13}" width="{max(end - begin, 1):.1f}" height="11" fill="{colour}"/>')
                out.append(_text(max(end, x(1)) + 4, y + j * 13 + 10, f"{row[key]:.2f}", size=10, colour="#57606a"))
    legend = WIDTH - 190
    for label, colour in COLOURS.values():
        out.append(f'<rect x="{legend}" y="34" width="11" height="11" fill="{colour}"/>')
        out.append(_text(legend + 16, 44, label))
        legend += 80
    out.append("</svg>")
    return "\n".join(out) + "\n"
