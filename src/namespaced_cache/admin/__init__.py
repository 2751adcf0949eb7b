"""A memcached server as seen from outside: what it holds, and what may be deleted."""
