"""The shop's test-suite: it knows nothing of cache wrappers."""
