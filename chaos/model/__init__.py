"""A model of a pool: its real scripts and sessions under faults, and a ledger that checks them.

Several nodes live in one process and have no event loop. Each does something only when
a rule says so, so that nodes freeze, die and lose answers between any two of their
commands. Time is the model's own, on the server too. After every step the ledger checks
all data of the server.
"""
