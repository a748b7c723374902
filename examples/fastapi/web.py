"""The web application. Start it with ``uvicorn web:web``."""

from fastapi import FastAPI

import shop  # noqa: F401  the operations find this application
from shop.operations import price

web = FastAPI()


@web.get("/def/{item}")
def in_a_thread(item: int) -> int:
    """Wait in a thread of the server's."""
    return price.delay([item, 1]).get(timeout=30)


@web.get("/async/{item}")
async def on_the_loop(item: int) -> int:
    """Wait on the event loop, which goes on meanwhile."""
    result = await price.adelay([item, 1])
    return await result
