"""Products, their stock, and what memcached stores about both."""
