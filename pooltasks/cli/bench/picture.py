"""Pictures of loads: lines over their seconds, or over something else; an SVG file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from pooltasks.simulator.plot import COLORS, ticks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pooltasks.cli.bench.loaded import Loaded

    Points = Sequence[tuple[float, float]]
    """Seconds, or what else the axis has, and the value there."""

_WIDTH, _HEIGHT = 900.0, 160.0  # of a drawing area, pixels
_LEFT, _TOP, _RIGHT, _BOTTOM = 60.0, 40.0, 220.0, 30.0
_CHART = _TOP + _HEIGHT + _BOTTOM


@dataclass(frozen=True)
class Chart:
    """Lines that share their axes."""

    title: str
    unit: str
    lines: Mapping[str, Points]
    bound: float | None = None
    """Drawn across."""
    axis: str = "s"
    """The unit of the axis."""

    def draw(self, length: float) -> Iterator[str]:
        """Yield its elements, the upper left corner at (0, 0).

        Args:
            length: Of the axis, in its unit.
        """
        values = [value for points in self.lines.values() for _, value in points]
        top = 1.05 * max([*values, self.bound or 0.0]) or 1.0
        yield (
            f'<text x="{_LEFT}" y="{_TOP - 16}" font-weight="bold">{escape(self.title)} '
            f"({escape(self.unit)})</text>"
        )
        for value in ticks(top):
            y = _y(value, top)
            yield f'<path d="M{_LEFT} {y:.1f}h{_WIDTH}" stroke="#eee"/>'
            yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        for value in ticks(length):
            x = _x(value, length)
            place = f'x="{x:.1f}" y="{_TOP + _HEIGHT + 16}" text-anchor="middle"'
            yield f"<text {place}>{value:g} {escape(self.axis)}</text>"
        if self.bound is not None:
            yield (
                f'<path d="M{_LEFT} {_y(self.bound, top):.1f}h{_WIDTH}" stroke="#b00" '
                'stroke-dasharray="5 3"/>'
            )
        for number, (name, points) in enumerate(self.lines.items()):
            color = COLORS[number % len(COLORS)]
            path = " ".join(f"{_x(at, length):.1f},{_y(value, top):.1f}" for at, value in points)
            yield (f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{path}"/>')
            x, y = _LEFT + _WIDTH + 8, _TOP + 16 * (number + 1)
            yield f'<path d="M{x} {y - 4}h18" stroke-width="2" stroke="{color}"/>'
            yield f'<text x="{x + 24}" y="{y}">{escape(name)}</text>'


def svg(charts: Sequence[Chart], length: float) -> str:
    """Return the picture of at least one chart, one under the other."""
    width, height = _LEFT + _WIDTH + _RIGHT, _CHART * len(charts)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'width="{width:g}" height="{height:g}">'
        ),
        "<style>text { font-family: sans-serif; font-size: 12px }</style>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, chart in enumerate(charts):
        drawn = chart.draw(length)
        parts += [f'<g transform="translate(0 {number * _CHART:g})">', *drawn, "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def of_the_load(loaded: Loaded) -> list[Chart]:
    """Return the charts that every scenario has: latency, operations a second, workers."""
    load = loaded.load
    spans = list(enumerate(load.spans))
    latencies = {
        name: [(at, its * 1e3) for at, span in spans if (its := span.latency.quantile(q))]
        for name, q in (("p50", 0.5), ("p99", 0.99))
    }
    looks = [(load.passed(look.at), look) for look in loaded.within(0, load.seconds)]
    return [
        Chart("Latency, by when an operation was meant to be sent", "ms", latencies, 100.0),
        Chart(
            "Operations",
            "a second",
            {
                "meant to be sent": [(at, span.sent) for at, span in spans],
                "of these answered": [(at, span.answered) for at, span in spans],
            },
        ),
        Chart(
            "Workers",
            "number",
            {
                "size": [(at, look.size) for at, look in looks],
                "warm": [(at, look.warm) for at, look in looks],
            },
        ),
    ]


def _x(at: float, length: float) -> float:
    return _LEFT + _WIDTH * at / length


def _y(value: float, top: float) -> float:
    return _TOP + _HEIGHT * (1.0 - value / top)
