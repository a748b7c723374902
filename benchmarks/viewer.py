"""Somebody who has a pool's page open: asks for its data each second, as the page does."""

from __future__ import annotations

import http.client
import sys
import time
from typing import Final
from urllib.request import urlopen

_BETWEEN: Final = 1.0
"""Seconds, as in the page's ``feed.js``."""
_TIMEOUT: Final = 10.0


def main(url: str) -> None:
    """Ask again and again; a dashboard that does not answer is asked later."""
    while True:
        try:
            with urlopen(url, timeout=_TIMEOUT) as answer:  # noqa: S310  our own dashboard
                answer.read()
        except (OSError, http.client.HTTPException) as error:
            print(f"{url}: {error}", flush=True)
        time.sleep(_BETWEEN)


if __name__ == "__main__":
    main(sys.argv[1])
