"""The scoreboard: workers write there what they do, and a node makes samples of it."""
