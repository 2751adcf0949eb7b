"""The signal with which a project resets data that it stores beside the cache."""

from __future__ import annotations

from django.dispatch import Signal

#: Sent after this process has invalidated a namespace, in any way, and the server has
#: acknowledged it. `sender` is NamespacedCache, `namespace` is the name with its
#: worker, and `generation` is the new generation. `alias` is the alias whose backend in
#: this thread invalidated the namespace, or None if the backend belongs to no alias.
namespace_invalidated = Signal()
