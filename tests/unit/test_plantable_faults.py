"""Each fault of the model can be planted: the script still has the text that it replaces."""

from __future__ import annotations

import pytest

from chaos.model.faults import FAULTS
from chaos.model.scripts import SCRIPTS


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name.replace(" ", "-") for fault in FAULTS])
def test_a_fault_can_be_planted(fault):
    for replacement in fault.replacements:
        assert replacement.apply(SCRIPTS[replacement.script].text)
