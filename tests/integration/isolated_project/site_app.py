"""A site of one view, and of one backend that is held from the import on."""

from django.core.cache import cache, caches
from django.http import HttpResponse, JsonResponse
from django.urls import path

#: Opened while Django is set up, before any test runner has a say.
held = caches["pylibmc"]
held.get("opened")


def look(_, key):
    return JsonResponse({"key": key, "value": cache.get(key)})


def who(request):
    return HttpResponse(str(request.user))


urlpatterns = [path("look/<key>", look), path("who", who)]
