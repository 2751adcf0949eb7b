"""Products, their stock, and what memcached remembers of both."""
