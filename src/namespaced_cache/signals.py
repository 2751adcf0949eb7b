"""The signal by which a project resets what it keeps beside the cache."""

from __future__ import annotations

from django.dispatch import Signal

#: Sent when this process has invalidated a namespace, in any way, and the server has
#: acknowledged it. `sender` is NamespacedCache, `namespace` the name with its worker,
#: `generation` the new number, and `alias` that of this thread's backend which did it,
#: or None if it is no alias's.
namespace_invalidated = Signal()
