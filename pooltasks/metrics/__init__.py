"""Numbers about pools: histograms, samples, the merged view, the health score."""
