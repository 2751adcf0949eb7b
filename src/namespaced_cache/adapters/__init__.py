"""Everything in which pymemcache and pylibmc differ, and how each reads the counter."""
