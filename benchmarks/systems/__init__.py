"""One module a system under test; imported only where that system is installed."""
