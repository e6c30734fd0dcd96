"""Cost against size as a picture: an SVG of four small charts, drawn without a library.

Every chart has sizes from left to right on a logarithmic axis, a linear axis from zero, and a
dashed line where something is required. Black on white in any viewer, text as text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

__all__ = ["Chart", "draw"]

_WIDTH, _HEIGHT = 420, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 46, 44
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_TICKS = 4
_SVG = "http://www.w3.org/2000/svg"
_FONT = 'font-family="sans-serif" font-size="11"'
_COLOURS = ("#1f5fa8", "#c2571a", "#3b7d3b", "#7a4a9e")


class Chart(NamedTuple):
    """``lines``: by name, one value for each of ``sizes``. ``limit``: what is required at most."""

    title: str
    unit: str
    sizes: Sequence[int]
    lines: Mapping[str, Sequence[float]]
    limit: float | None = None


def draw(charts: Sequence[Chart]) -> str:
    """Two charts in a row."""
    width, height = 2 * _WIDTH, math.ceil(len(charts) / 2) * _HEIGHT
    parts = [
        f'<svg xmlns="{_SVG}" viewBox="0 0 {width} {height}" width="{width}" {_FONT}>',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for place, chart in enumerate(charts):
        x, y = place % 2 * _WIDTH, place // 2 * _HEIGHT
        parts += [f'<g transform="translate({x} {y})">', *_chart(chart), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _chart(chart: Chart) -> list[str]:
    highest = max(*(max(line) for line in chart.lines.values()), chart.limit or 0.0)
    step = _step(highest)
    top = step * math.ceil(highest / step)
    parts = [_text(_LEFT, 20, f"{chart.title} ({chart.unit})", weight="bold")]
    for tick in range(round(top / step) + 1):
        y = _y(tick * step, top)
        parts += [
            _line(_LEFT, y, _WIDTH - _RIGHT, y, "#dddddd"),
            _text(_LEFT - 6, y + 4, f"{tick * step:g}", anchor="end"),
        ]
    for size in chart.sizes:
        x = _x(size, chart.sizes)
        parts += [
            _line(x, _HEIGHT - _BOTTOM, x, _HEIGHT - _BOTTOM + 4, "#333333"),
            _text(x, _HEIGHT - _BOTTOM + 17, f"{size:,}", anchor="middle"),
        ]
    parts += [
        _line(_LEFT, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, "#333333"),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, "keys in the store", anchor="middle"),
    ]
    if chart.limit is not None:
        y = _y(chart.limit, top)
        parts += [
            _line(_LEFT, y, _WIDTH - _RIGHT, y, "#b00020", 'stroke-dasharray="6 4"'),
            _text(_WIDTH - _RIGHT, y - 5, f"required: {chart.limit:g}", "#b00020", anchor="end"),
        ]
    for number, (name, values) in enumerate(chart.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [
            (_x(size, chart.sizes), _y(value, top))
            for size, value in zip(chart.sizes, values, strict=True)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        if len(chart.lines) > 1:
            parts.append(_text(_LEFT + 8 + 86 * number, 36, name, colour))
    return parts


def _step(highest: float) -> float:
    """The smallest of the usual distances with which some ticks reach ``highest``."""
    rough = highest / _TICKS or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in _STEPS if step * power >= rough)


def _x(size: int, sizes: Sequence[int]) -> float:
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    share = 0.5 if high == low else (math.log10(size) - low) / (high - low)
    return _LEFT + 16 + share * (_WIDTH - _LEFT - _RIGHT - 32)


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _TOP - _BOTTOM)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    colour: str = "#111111",
    *,
    anchor: str = "start",
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"'
        f' font-weight="{weight}">{escape(text)}</text>'
    )
