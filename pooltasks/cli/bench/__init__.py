"""``pool bench``: a load on a pool that runs, and what is measured and judged meanwhile.

A scenario (``scenarios``) puts the load on the pool (``load``), looks at its nodes (``watch``)
and returns a report (``report``). ``scripts/bench`` runs the same scenarios on a deployment
that it makes for them.
"""

from pooltasks.cli.bench.command import bench

__all__ = ["bench"]
