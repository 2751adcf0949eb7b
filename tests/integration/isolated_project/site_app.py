"""A site with two views, and a cache backend that it opens when it is imported."""

from django.core.cache import cache, caches
from django.http import HttpResponse, JsonResponse
from django.urls import path

#: Django opens this backend during set-up, before a test runner can change it.
held = caches["pylibmc"]
held.get("opened")


def show(_, key):
    return JsonResponse({"key": key, "value": cache.get(key)})


def who(request):
    return HttpResponse(str(request.user))


urlpatterns = [path("show/<key>", show), path("who", who)]
