"""Settings and URLs of the shop."""
