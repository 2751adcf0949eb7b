"""A memcached server seen from outside: the items it holds, and which are garbage."""
