"""The shop's test suite. It does not use this package."""
