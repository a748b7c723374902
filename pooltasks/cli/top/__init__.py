"""``pool top``: the pools on a terminal's whole screen, as htop shows processes."""
