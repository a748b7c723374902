"""Taking operations in: what a node makes of a message before a worker gets it."""
