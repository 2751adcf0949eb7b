"""Production settings only: they do not mention tests or namespaces."""

import os

SECRET_KEY = "not a secret"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "namespaced_cache",
    "site_app",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
STATIC_URL = "/static/"
ROOT_URLCONF = "site_app"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SESSION_ENGINE = "django.contrib.sessions.backends.cache"
USE_TZ = True
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": os.environ["MEMCACHED_LOCATION"],
        "TIMEOUT": None,
    },
    "pylibmc": {
        "BACKEND": "django.core.cache.backends.memcached.PyLibMCCache",
        "LOCATION": os.environ["MEMCACHED_LOCATION"],
        "KEY_PREFIX": "pylibmc",
    },
    "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    # This alias cannot be opened: neither its client library nor its server is
    # installed.
    "unused": {"BACKEND": "django.core.cache.backends.redis.RedisCache"},
}
