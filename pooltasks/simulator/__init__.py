"""A pool as a discrete-event simulation that runs the optimizer's very own policies."""
