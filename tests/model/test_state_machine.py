"""Whatever happens to a pool's nodes, connections and server, nothing is lost or runs too often.

A share of ``scripts/chaos model``: few examples, of another seed each time. The seed is
printed. To see a failure again: ``scripts/chaos model --seed SEED --examples 25``.
"""

from __future__ import annotations

import os
import random

from chaos.model.run import run_model

EXAMPLES = 25


def test_nothing_is_lost_and_nothing_is_taken_from_the_living(valkey_url):
    seed = int(os.environ.get("POOLTASKS_MODEL_SEED") or random.SystemRandom().randrange(10**6))
    print(f"scripts/chaos model --examples {EXAMPLES} --seed {seed}")  # noqa: T201  shown when it fails
    run_model(valkey_url, examples=EXAMPLES, number=seed)
