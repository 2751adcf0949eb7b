"""Keys: makes wire keys, fits them into memcached's 250 bytes, and parses them.

Everything here is a pure function of text. A namespace has three kinds of wire key. No
two different inputs give the same wire key:

    nsc:NAMESPACE                           the counter
    nsc:NAMESPACE:GENERATION:KEY            an item under the caller's own key
    nsc:NAMESPACE:GENERATION~HEAD~DIGEST    an item whose caller's key did not fit

NAMESPACE contains no colon, and GENERATION is a number in base 36. So the character
after the generation tells the two kinds of item apart. A counter has no generation, so
it is never mistaken for an item.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from namespaced_cache.errors import NamespaceError

Key = str | bytes

#: Memcached takes keys of up to this many bytes (its protocol.txt, "Keys").
MAX_KEY_BYTES = 250

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
#: 160 bits, written as 40 hexadecimal digits behind a tilde.
_DIGEST_BYTES = 20
_DIGEST_SIZE = 2 * _DIGEST_BYTES + 1
_ITEM = re.compile(
    rb"nsc:([\w.-]+)(?: :([0-9a-z]+)(?: :(.*) | ~(.*)~([0-9a-f]{40}) ) )?",
    re.DOTALL | re.VERBOSE,
)
#: The bytes that end a key in memcached's text protocol, or in libmemcached.
KEY_ENDS = re.compile(rb"[\x00-\x20\x7f]")


def as_bytes(key: Key) -> bytes:
    """Return a key as clients send it."""
    return key.encode() if isinstance(key, str) else key


def name_of(key: bytes) -> bytes:
    """Return how a meta command of memcached names a key.

    Clients with the binary protocol may store keys that contain a space or a control
    character. A meta command names such a key in base64, with the flag `b`.
    """
    return b64encode(key) + b" b" if KEY_ENDS.search(key) else key


def has_name(key: bytes) -> bool:
    """Tell whether a meta command can name a key.

    If a key that has to be named in base64 has more than 187 bytes, its base64 is
    longer than memcached's limit.
    """
    return len(name_of(key).removesuffix(b" b")) <= MAX_KEY_BYTES


def base36(number: int) -> str:
    """Write a number that is not negative in base 36."""
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
        if not number:
            return digits


def counter_key(namespace: str) -> str:
    """Return the wire key of the namespace's counter."""
    return f"nsc:{namespace}"


class GenerationKeys:
    """The keys of one generation of a namespace.

    `limit` is the maximum length of a wire key in bytes. If pymemcache adds a
    `key_prefix`, it is less than memcached's 250. `refuse_key_ends` is for clients that
    send a key with a space in it as two keys. `check` raises the client's own error for
    a key that the client does not accept. It is called before a digest replaces the
    tail of a key, because the client cannot see an error in that tail.

    Raises NamespaceError for a limit that leaves no room for a key.
    """

    def __init__(
        self,
        namespace: str,
        number: int,
        *,
        limit: int = MAX_KEY_BYTES,
        refuse_key_ends: bool = False,
        check: Callable[[Key], object] | None = None,
    ) -> None:
        self.namespace = namespace
        self.number = number
        self._stem = f"nsc:{namespace}:{base36(number)}".encode()
        self._prefix = self._stem + b":"
        self._text_prefix = self._prefix.decode()
        self._limit = limit
        self._room = limit - len(self._prefix)
        if self._room < _DIGEST_SIZE:
            raise NamespaceError(
                f"Namespace {namespace!r} takes {len(self._prefix)} bytes of a key and "
                f"{_DIGEST_SIZE} for what is long, but the client's key_prefix leaves "
                f"{limit} of {MAX_KEY_BYTES}: shorten either."
            )
        self._refuse_key_ends = refuse_key_ends
        self._check = check

    def wire_key(self, key: Key) -> Key:
        """Return the wire key of a caller's key in this generation.

        Text stays text and bytes stay bytes, because clients validate them by different
        rules. A text and its UTF-8 bytes give the same wire key on the server. If the
        caller's key itself exceeds the limit, the wire key exceeds it too, so that the
        client refuses it as usual.

        Raises TypeError for a key that is neither text nor bytes, UnicodeEncodeError
        for lone surrogates, and ValueError for a space or a control character if
        `refuse_key_ends` is set.
        """
        # The fast path, for short ASCII keys.
        if type(key) is str and key.isascii() and len(key) <= self._room:
            if self._refuse_key_ends and (" " in key or not key.isprintable()):
                raise _ends_early(key)
            return self._text_prefix + key
        if not isinstance(key, (str, bytes)):
            kind = type(key).__name__
            raise TypeError(f"A cache key is str or bytes, not {kind}: {key!r}")
        raw = as_bytes(key)
        if self._refuse_key_ends and KEY_ENDS.search(raw):
            raise _ends_early(key)
        fits_in_no_way = len(raw) > self._limit
        if len(raw) <= self._room or fits_in_no_way:
            wire = self._prefix + raw
        else:
            if self._check is not None:
                self._check(key)
            wire = self._shortened(raw)
        return wire.decode() if isinstance(key, str) else wire

    def wire_keys(self, keys: list[Key]) -> list[Key]:
        """Return the wire keys of many keys: see `wire_key`."""
        # The fast path, for all keys in one step.
        if {*map(type, keys)} == {str}:
            text = "".join(cast("list[str]", keys))
            if (
                text.isascii()
                and not (
                    self._refuse_key_ends and (" " in text or not text.isprintable())
                )
                and max(map(len, keys)) <= self._room
            ):
                return [self._text_prefix + cast("str", key) for key in keys]
        return [*map(self.wire_key, keys)]

    def _shortened(self, key: bytes) -> bytes:
        digest = hashlib.blake2b(key, digest_size=_DIGEST_BYTES).hexdigest().encode()
        head_size = self._room - _DIGEST_SIZE
        while head_size and _within_character(key[head_size]):
            head_size -= 1
        return b"%s~%s~%s" % (self._stem, key[:head_size], digest)


def _ends_early(key: Key) -> ValueError:
    return ValueError(
        f"Cache key {key!r} has a space or a control character, which ends a key early "
        f"in memcached's text protocol."
    )


def _within_character(byte: int) -> bool:
    # In UTF-8, all bytes of a character but the first are 10xxxxxx. Text that is cut
    # in the middle of a character does not decode.
    return 0x80 <= byte < 0xC0  # noqa: PLR2004


@dataclass(frozen=True)
class ParsedKey:
    """The parts of a wire key.

    `generation` is None for a counter. `key` is the caller's key. If there is a
    `digest`, `key` is only the beginning of the caller's key.
    """

    namespace: str
    generation: int | None = None
    key: bytes | None = None
    digest: str | None = None


def parse(key: bytes) -> ParsedKey | None:
    """Return the parts of a wire key, or None if it belongs to no namespace."""
    match = _ITEM.fullmatch(key)
    if match is None:
        return None
    namespace, generation, whole, head, digest = match.groups()
    return ParsedKey(
        namespace=namespace.decode(),
        generation=None if generation is None else int(generation, 36),
        key=whole if digest is None else head,
        digest=None if digest is None else digest.decode(),
    )
