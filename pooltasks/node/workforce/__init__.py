"""The workforce: a node has as many workers as are wanted, and gives them operations."""
