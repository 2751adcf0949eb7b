"""Settings for Django's own tests, with our backends for memcached.

MEMCACHED_LOCATION is the server. SUITE_BACKENDS is the module of the backends: ours, or
Django's own, which shows the results without this package.
"""

import os

LOCATION = os.environ["MEMCACHED_LOCATION"]
BACKENDS = os.environ["SUITE_BACKENDS"]

CACHES = {
    "default": {"BACKEND": f"{BACKENDS}.PyMemcacheCache", "LOCATION": LOCATION},
    "pylibmc": {"BACKEND": f"{BACKENDS}.PyLibMCCache", "LOCATION": LOCATION},
}
DATABASES = {
    alias: {"ENGINE": "django.db.backends.sqlite3"} for alias in ("default", "other")
}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
