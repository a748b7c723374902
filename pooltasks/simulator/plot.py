"""Pictures of simulated runs: an SVG file, drawn by hand because it is a few lines and boxes.

One panel a workload. The gray area is the offered load: the workers that would
be busy if nothing ever waited. A line a policy is its size, and the marks under
the panel are the seconds in which one of its operations waited too long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from pooltasks.simulator.workloads import STEP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pooltasks.simulator.run import Run
    from pooltasks.simulator.workloads import Arrivals

WIDTH, HEIGHT = 900.0, 200.0  # of a panel's drawing area, pixels
_LEFT, _TOP, _ROW = 50.0, 46.0, 16.0
_TICKS = 5.0  # of an axis, at most, without its zero
# Told apart by people who see no red or no green (Okabe and Ito 2008).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6d31", "#000000")
DASHES = "5 3"  # of the lines that have a color for the second time


@dataclass
class Panel:
    """One workload: its offered load, and the policies that were tried on it."""

    title: str
    arrivals: Arrivals
    wait: float
    """Seconds; an operation that waited longer is late."""
    runs: list[tuple[str, Run]] = field(default_factory=list)

    @property
    def height(self) -> float:
        """Pixels, the room for titles and ticks included."""
        return _TOP + HEIGHT + _ROW * (len(self.runs) + 2)

    def draw(self) -> Iterator[str]:
        """Yield the elements of the panel, its upper left corner at (0, 0)."""
        highest = max(size for _, run in self.runs for _, size in run.sizes)
        load = [rate * self.arrivals.service.mean for rate in self.arrivals.rates]
        top = max(highest, *load) * 1.05
        yield f'<text x="{_LEFT}" y="{_TOP - 26}" font-weight="bold">{escape(self.title)}</text>'
        yield (
            f'<text x="{_LEFT}" y="{_TOP - 10}" fill="#555">Lines: workers. Gray: workers that '
            "would be busy if nothing waited. Marks: seconds in which an operation waited "
            f"longer than {self.wait * 1000:g} ms.</text>"
        )
        yield from self._axes(top)
        points = [(0.0, 0.0), *self._thinned(load), (self.arrivals.seconds, 0.0)]
        yield f'<polygon fill="#ddd" points="{self._path(points, top)}"/>'
        for number, (name, run) in reversed(list(enumerate(self.runs))):  # the first on top
            again, index = divmod(number, len(COLORS))
            color, dashes = COLORS[index], f' stroke-dasharray="{DASHES}"' if again else ""
            stairs = _stairs(run.sizes, self.arrivals.seconds)
            yield (
                f'<polyline fill="none" stroke="{color}" stroke-width="1.5"{dashes} '
                f'points="{self._path(stairs, top)}"/>'
            )
            y = _TOP + HEIGHT + _ROW * (number + 2)
            yield self._label(name, run, f'stroke="{color}"{dashes}', y)
            yield self._late(run, color, y)

    def _axes(self, top: float) -> Iterator[str]:
        for value in ticks(top):
            x, y = self._at(0.0, value, top)
            yield f'<path d="M{x:.1f} {y:.1f}h{WIDTH}" stroke="#eee"/>'
            yield f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        for minutes in ticks(self.arrivals.seconds / 60.0):
            x, y = self._at(minutes * 60.0, 0.0, top)
            yield f'<text x="{x:.1f}" y="{y + 14:.1f}" text-anchor="middle">{minutes:g} min</text>'

    def _thinned(self, load: Sequence[float]) -> Iterator[tuple[float, float]]:
        """Yield the stairs of the highest load of each pixel."""
        each = max(1, math.ceil(len(load) / WIDTH))
        highest = [max(load[start : start + each]) for start in range(0, len(load), each)]
        for value, same in groupby(enumerate(highest), key=lambda item: item[1]):
            pixels = [pixel for pixel, _ in same]
            yield pixels[0] * each * STEP, value
            yield min((pixels[-1] + 1) * each, len(load)) * STEP, value

    def _label(self, name: str, run: Run, line: str, y: float) -> str:
        x = _LEFT + WIDTH + 8.0
        text = f"{name}: {100 * run.violations:.2f} % late, {run.worker_seconds:,.0f} worker-s"
        return (
            f'<path d="M{x} {y - 4:.1f}h18" stroke-width="2" {line}/>'
            f'<text x="{x + 24}" y="{y}">{escape(text)}</text>'
        )

    def _late(self, run: Run, color: str, y: float) -> str:
        seconds = {
            int(published)
            for published, wait in zip(self.arrivals.times, run.waits, strict=True)
            if wait > self.wait
        }
        second = WIDTH / self.arrivals.seconds
        marks = ""
        for _, same in groupby(enumerate(sorted(seconds)), key=lambda item: item[1] - item[0]):
            row = [at for _, at in same]  # without a second in time between them
            width = max(1.0, len(row) * second)
            marks += f"M{_LEFT + row[0] * second:.1f} {y - 4.5:.1f}h{width:.1f}"
        return f'<path d="{marks}" stroke="{color}" stroke-width="9"/>' if marks else ""

    def _at(self, seconds: float, slots: float, top: float) -> tuple[float, float]:
        x = _LEFT + WIDTH * seconds / self.arrivals.seconds
        return x, _TOP + HEIGHT * (1.0 - slots / top)

    def _path(self, points: Iterable[tuple[float, float]], top: float) -> str:
        places = (self._at(seconds, slots, top) for seconds, slots in points)
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def svg(panels: Sequence[Panel]) -> str:
    """Return the picture of at least one panel, one under the other."""
    width, height = _LEFT + WIDTH + 300.0, sum(panel.height for panel in panels)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'width="{width:g}" height="{height:g}">'
        ),
        "<style>text { font-family: sans-serif; font-size: 12px }</style>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    y = 0.0
    for panel in panels:
        parts += [f'<g transform="translate(0 {y:g})">', *filter(None, panel.draw()), "</g>"]
        y += panel.height
    return "\n".join([*parts, "</svg>", ""])


def _stairs(sizes: Sequence[tuple[float, int]], end: float) -> Iterator[tuple[float, float]]:
    for (start, size), (until, _) in pairwise([*sizes, (end, 0)]):
        yield start, float(size)
        yield until, float(size)


def ticks(top: float) -> list[float]:
    """Return up to six round numbers from 0 to at most ``top``."""
    unit = 10.0 ** math.floor(math.log10(top / _TICKS))
    step = next(unit * n for n in (1, 2, 5, 10) if top <= unit * n * _TICKS)
    return [step * number for number in range(int(top / step) + 1)]
