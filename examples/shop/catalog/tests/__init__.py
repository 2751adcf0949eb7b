"""The shop's test-suite: it does not use this package."""
