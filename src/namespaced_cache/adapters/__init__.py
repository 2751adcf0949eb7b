"""The differences between pymemcache and pylibmc, and how each reads the counter."""
