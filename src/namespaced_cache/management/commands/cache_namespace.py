"""`manage.py cache_namespace`: lists, invalidates and purges namespaces."""

from __future__ import annotations

import argparse
import json
import math
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
    OutputWrapper,
)
from django.template.defaultfilters import pluralize

from namespaced_cache import aliases, wrapping
from namespaced_cache.adapters.adapter import (
    CounterServer,
    NoConnectionError,
    adapter_of,
)
from namespaced_cache.admin.inventory import (
    IDLE_AFTER,
    Amount,
    Inventory,
    Namespace,
)
from namespaced_cache.admin.purge import Purge
from namespaced_cache.admin.server import Access, Server
from namespaced_cache.backend import NamespacedCache
from namespaced_cache.core import clock, identity, options
from namespaced_cache.core.counter import Counter
from namespaced_cache.errors import NamespaceError, UnsupportedClientError

_UNITS = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60}
_AGE = re.compile("([0-9]+)([smhd])")

#: The exit status of a program that Ctrl-C has ended.
_INTERRUPTED = 130

#: After so many seconds of work, the command shows its progress.
PROGRESS_AFTER = 2

#: The verbosity at which a finished run that holds nothing has a row of its own.
_IN_FULL = 2


class Command(BaseCommand):
    """Works on the servers of all memcached aliases, or of one alias.

    The aliases need not be namespaced.
    """

    help = "List, invalidate and purge the namespaces on the memcached servers."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the three subcommands, each with Django's own options."""
        _add_skip_checks(parser)
        ways = parser.add_subparsers(dest="way", required=True, metavar="WAY")
        djangos: dict[str, Any] = {
            "parents": [_DjangosOptions().create_parser("", "")],
            "formatter_class": DjangoHelpFormatter,
        }
        listing = ways.add_parser(
            "list", help="show what each namespace holds", **djangos
        )
        listing.add_argument("--json", action="store_true", help="print JSON")
        invalidating = ways.add_parser(
            "invalidate", help="invalidate all keys of a namespace", **djangos
        )
        invalidating.add_argument(
            "name", nargs="?", help="the namespace's name; else each alias's own"
        )
        purging = ways.add_parser(
            "purge", help="delete dead generations and leftovers of runs", **djangos
        )
        purging.add_argument(
            "--older-than",
            type=_age,
            default="1d",
            metavar="AGE",
            help="delete only what nothing has used for AGE, such as 90m (default: 1d)",
        )
        purging.add_argument(
            "--dry-run", action="store_true", help="report what it would delete"
        )
        for way in listing, invalidating, purging:
            way.add_argument("--alias", help="only this alias, not all")

    def handle(self, *_: Any, way: str, alias: str | None, **given: Any) -> None:
        """Carry out the subcommand."""
        self._verbosity: int = given["verbosity"]
        older_than: Any = given.get("older_than")
        if isinstance(older_than, str):  # of call_command()
            older_than = _age(older_than)
        try:
            with ExitStack() as stack:
                inventories = _inventories(alias, stack, self._wait)
                if way == "list":
                    self._list(inventories, as_json=given["json"])
                elif way == "purge":
                    self._purge(inventories, older_than, dry_run=given["dry_run"])
                elif given["name"] is None:
                    self._invalidate_own(alias)
                else:
                    self._invalidate(inventories, given["name"])
        except (
            NamespaceError,
            ImproperlyConfigured,
            InvalidCacheBackendError,
            ModuleNotFoundError,
        ) as e:
            raise CommandError(str(e)) from e

    def _list(self, inventories: Sequence[Inventory], *, as_json: bool) -> None:
        found: list[Namespace] = []
        progress = self._progress(inventories)
        for inventory in inventories:
            for server in inventory.servers:
                for _ in inventory.walk(server):
                    progress.show()
            found += inventory.namespaces.values()
        progress.end()
        found.sort(key=lambda namespace: namespace.name)
        if as_json:
            self.stdout.write(json.dumps([asdict(each) for each in found], indent=2))
        else:
            self._write_table(found)

    def _write_table(self, found: Sequence[Namespace]) -> None:
        folded = set() if self._verbosity >= _IN_FULL else _finished_and_empty(found)
        head = [
            *("namespace", "generation", "first seen", "last seen"),
            *("live", "dead", "unclaimed"),
        ]
        lines = [head] + [
            [
                each.name,
                str(each.generation or "-"),
                *map(_ago, (each.first_seen, each.last_seen)),
                *map(_written, (each.live, each.dead, each.unclaimed)),
            ]
            for each in found
            if _run_of(each) not in folded
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for name, *cells in lines:
            rest = (c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))
            self.stdout.write("  ".join([name.ljust(widths[0]), *rest]))
        if folded:
            runs = f"{len(folded):,} finished run{pluralize(len(folded))}"
            hold = pluralize(len(folded), "holds,hold")
            seen = _ago(
                min(each.last_seen for each in found if _run_of(each) in folded)
            )
            self.stdout.write(f"{runs} that {hold} nothing, last seen {seen}")

    def _invalidate_own(self, alias: str | None) -> None:
        found = aliases.namespaced_caches(alias)
        for each, cache in found.items():
            if identity.is_run(cache.namespace) and identity.is_named_here():
                raise CommandError(
                    f"CACHES[{each!r}] has a new namespace for each run, and this "
                    f"command is a run of its own: name the namespace that you mean."
                )
        if not found:
            raise CommandError(
                "No alias of CACHES has a namespace. Give the name of a namespace that "
                "`list` shows."
            )
        for each, generation in aliases.invalidate_namespaces(found).items():
            name = found[each].namespace
            self._say(f"{each}: namespace {name}, generation {generation}")

    def _invalidate(self, inventories: Sequence[Inventory], name: str) -> None:
        if not all(map(identity.is_name, name.split("."))):
            raise CommandError(
                f"{name!r} is not a namespace: it takes a name that `list` shows."
            )
        is_known = False
        for inventory in inventories:
            key = inventory.counter_key(name)
            for server in inventory.servers:
                value = server.get(key)
                if value is None:
                    continue
                # This raises an error if the value is not a generation.
                Counter(name, server.name).generation_in(value)
                generation = server.increment(key)
                if generation is not None:
                    is_known = True
                    self._say(
                        f"{server.name}: namespace {name}, generation {generation}"
                    )
        if not is_known:
            raise CommandError(f"No server has a namespace {name!r}.")

    def _purge(
        self, inventories: Sequence[Inventory], older_than: int, *, dry_run: bool
    ) -> None:
        progress = self._progress(inventories)
        purges = [
            Purge(each, older_than, dry_run=dry_run, on_item=progress.show)
            for each in inventories
        ]
        try:
            for purge in purges:
                purge.run()
        except KeyboardInterrupt:
            raise CommandError(
                "Broken off: the next purge continues.", returncode=_INTERRUPTED
            ) from None
        finally:
            progress.end()
            freed: dict[str, Amount] = {}
            for purge in purges:
                for name, amount in purge.freed.items():
                    freed.setdefault(name, Amount()).add(amount.items, amount.bytes)
            self._write_summary(freed, "would be deleted" if dry_run else "deleted")

    def _write_summary(self, freed: dict[str, Amount], what: str) -> None:
        for name, amount in sorted(freed.items()):
            self._say(f"{name}: {_written(amount)}")
        total = Amount()
        for amount in freed.values():
            total.add(amount.items, amount.bytes)
        namespaces = f"{len(freed)} namespace{pluralize(len(freed))}"
        self._say(f"{_written(total)} of {namespaces} {what}")

    def _progress(self, inventories: Sequence[Inventory]) -> _Progress:
        servers = [server for inventory in inventories for server in inventory.servers]
        after = PROGRESS_AFTER if self._verbosity else math.inf
        return _Progress(self.stderr, servers, after)

    def _wait(self, server: Server, reason: str) -> None:
        if self._verbosity:
            self.stderr.write(f"{server.name} {reason}: waiting.", str)

    def _say(self, line: str) -> None:
        if self._verbosity:
            self.stdout.write(line)


class _DjangosOptions(BaseCommand):
    """Makes a parser of the options that Django gives to every command.

    They have no defaults. So an option after the subcommand does not overwrite one
    before it, unless it is given.
    """

    def create_parser(
        self, prog_name: str, subcommand: str, **kwargs: Any
    ) -> CommandParser:
        kwargs |= {"add_help": False, "argument_default": argparse.SUPPRESS}
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_base_argument(
        self, parser: CommandParser, *args: Any, **kwargs: Any
    ) -> None:
        kwargs["default"] = argparse.SUPPRESS
        super().add_base_argument(parser, *args, **kwargs)


class _Progress:
    """A progress bar on a terminal. Elsewhere, one line for each 10 %.

    Nothing is shown in the first `after` seconds.
    """

    def __init__(
        self, out: OutputWrapper, servers: Sequence[Server], after: float
    ) -> None:
        self._out = out
        self._shown_from = clock.monotonic() + after
        self._servers = servers
        self._total = sum(server.count() for server in servers)
        self._shown = 0

    def show(self) -> None:
        """Show the progress, if it is higher than what was shown last."""
        if clock.monotonic() < self._shown_from:
            return
        walked = sum(server.walked for server in self._servers)
        percent = min(100, 100 * walked // max(1, self._total))
        step = 1 if self._out.isatty() else 10
        if percent >= self._shown + step:
            self._shown = percent - percent % step
            bar = ("#" * (self._shown // 4)).ljust(25, ".")
            self._out.write(
                f"{self._shown:3} % [{bar}] {walked:,} of {self._total:,} items",
                str,  # not in the colour of errors
                ending="\r" if self._out.isatty() else "\n",
            )

    def end(self) -> None:
        """End the line of the bar."""
        if self._shown and self._out.isatty():
            self._out.write("")


def _inventories(
    chosen: str | None, stack: ExitStack, on_busy: Callable[[Server, str], object]
) -> list[Inventory]:
    """Return inventories of the servers of one alias, or of all aliases (None).

    The stack closes the connections.
    """
    on_memcached = [*filter(_is_memcached, caches)]
    if chosen is not None:
        aliases.check_exists(chosen)
    if not on_memcached:
        raise CommandError("CACHES has no alias on memcached.")
    if chosen is not None and chosen not in on_memcached:
        raise CommandError(
            f"The cache alias {chosen!r} is not on memcached: its BACKEND is "
            f"{caches.settings[chosen]['BACKEND']!r}. On memcached: "
            f"{', '.join(map(repr, on_memcached))}."
        )
    opened: dict[str, Server] = {}
    found: dict[bytes, Inventory] = {}
    for alias in on_memcached:
        with options.naming(alias):
            cache: Any = caches[alias]
        prefix = cache._options.get("key_prefix") or b""  # pymemcache's
        inventory = found.setdefault(prefix, Inventory(prefix))
        for location, access in zip(
            cache.client_servers, _accesses(cache), strict=True
        ):
            try:
                server = Server(location, on_busy, access)
            except NamespaceError as error:
                raise CommandError(f"CACHES[{alias!r}]: {error}") from error
            if server.name not in opened:
                opened[server.name] = stack.enter_context(server)
            server = opened[server.name]
            if server not in inventory.counter_servers:
                inventory.counter_servers.append(server)
            if chosen in (alias, None) and server not in inventory.servers:
                inventory.servers.append(server)
    return [inventory for inventory in found.values() if inventory.servers]


def _accesses(cache: Any) -> Iterable[Access]:
    """Return how each server of a backend is reached: as its client does, if possible.

    A client that logs in to a server does so in the binary protocol, with SASL. Then
    the text protocol's login is tried.
    """
    client, options = cache._cache, cache._options
    if isinstance(cache, NamespacedCache):
        client = client.wrapped
    servers = cache.client_servers
    login = None
    if options.get("username"):
        login = str(options["username"]), str(options.get("password") or "")
    try:
        counter_server = CounterServer("", servers[0], options, servers)
        connect = adapter_of(client).raw_servers(client, counter_server).connect
    except (NoConnectionError, UnsupportedClientError):
        return [Access(login=login) for _ in servers]
    return [Access(partial(_opened, each), login) for each in connect]


def _opened(connect: Callable[[], Any]) -> socket.socket:
    """Open a connection as a client does. Its socket may be below Python's."""
    connection = connect()
    if isinstance(connection, socket.socket):
        return connection
    return socket.socket(fileno=connection.detach())


def _is_memcached(alias: str) -> bool:
    setting = caches.settings.get(alias, {})
    backend = wrapping.backend_of(alias, setting)
    if options.is_function(backend):
        return isinstance(caches[alias], BaseMemcachedCache)
    return wrapping.may_be_on(BaseMemcachedCache, backend)


def _age(text: str) -> int:
    found = _AGE.fullmatch(text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if seconds < IDLE_AFTER:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an age: it takes a number of s, m, h or d, at least "
            f"{IDLE_AFTER // 60}m, because memcached notes a use once a minute"
        )
    return seconds


def _run_of(namespace: Namespace) -> str:
    """Return the name without the worker's."""
    return namespace.name.partition(".")[0]


def _finished_and_empty(found: Iterable[Namespace]) -> set[str]:
    """Return the names of the finished runs that hold nothing but counters."""
    runs: dict[str, bool] = {}
    for each in found:
        if identity.is_run(each.name):
            is_over = each.is_empty and each.last_seen >= IDLE_AFTER
            runs[_run_of(each)] = is_over and runs.get(_run_of(each), True)
    return {run for run, is_over in runs.items() if is_over}


def _add_skip_checks(parser: CommandParser) -> None:
    # Django adds it only to commands that run its checks. This command runs none, but
    # scripts pass the option to every command.
    parser.add_argument(
        "--skip-checks", action="store_true", help="Skip system checks."
    )


def _ago(seconds: int) -> str:
    unit = next(u for u in reversed(_UNITS) if seconds >= _UNITS[u] or u == "s")
    return f"{seconds // _UNITS[unit]} {unit} ago"


def _written(amount: Amount) -> str:
    return f"{amount.items:,} ({amount.bytes:,} B)"
