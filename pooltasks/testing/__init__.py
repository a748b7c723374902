"""For the tests of applications that use pools: no server, no worker, no node.

::

    with inline(app):
        assert work.delay(2).get() == 4  # runs in this process, at once

    with recorded(app) as submitted:
        order.submit()
        submitted.assert_submitted(work, 2)  # nothing ran

The fixtures ``pooltasks_inline``, ``pooltasks_recorded`` and ``pooltasks_pools``
(real pools on a server of their own) come with pytest by themselves.
"""

from __future__ import annotations

from pooltasks.testing.inline import inline
from pooltasks.testing.recorded import Call, Recorded, recorded

__all__ = ["Call", "Recorded", "inline", "recorded"]
