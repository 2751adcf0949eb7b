"""Finds a running memcached, or starts a private one on a loopback port."""

import contextlib
import ipaddress
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pymemcache
from pymemcache.client.base import normalize_server_spec

USUAL_LOCATION = "127.0.0.1:11211"
START_SECONDS = 5


class NoMemcachedError(Exception):
    """There is no memcached to use. The text says what to do."""


def location_in_use() -> str | None:
    """Return the location of a running memcached, or None if there is none.

    If `MEMCACHED_LOCATION` is set, a memcached on this machine must answer there.
    Otherwise `NoMemcachedError` is raised. If it is not set, the usual port is tried.
    """
    location = os.environ.get("MEMCACHED_LOCATION")
    if not location:
        return USUAL_LOCATION if _answers(USUAL_LOCATION) else None
    if not _is_local(location):
        msg = (
            f"MEMCACHED_LOCATION is {location!r}; the demo only writes to a memcached"
            " on this machine: name a loopback address or a unix socket, or unset it"
        )
        raise NoMemcachedError(msg)
    if not _answers(location):
        msg = (
            f"MEMCACHED_LOCATION is {location!r}, but no memcached answers there:"
            " start one, or unset it to have the demo start its own"
        )
        raise NoMemcachedError(msg)
    return location


@contextlib.contextmanager
def private_memcached() -> Iterator[str]:
    """Run a private memcached for the length of the block, and yield its location.

    Raises `NoMemcachedError` if there is no `memcached` binary, or it does not start.
    """
    binary = shutil.which("memcached")
    if binary is None:
        msg = (
            "there is no `memcached` on the PATH: install it, or name one that runs on"
            " this machine in MEMCACHED_LOCATION"
        )
        raise NoMemcachedError(msg)
    port = _free_port()
    command = [binary, "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", "256"]
    if os.geteuid() == 0:
        # memcached refuses to run as root.
        command += ["-u", "nobody"]
    process = subprocess.Popen(  # noqa: S603 - the binary is the user's own memcached
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C must not end it before the demo has deleted its keys.
        start_new_session=True,
    )
    try:
        location = f"127.0.0.1:{port}"
        _wait_until_it_answers(process, location)
        yield location
    finally:
        process.terminate()
        try:
            process.wait(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], location: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if _answers(location):
            return
        time.sleep(0.02)
    msg = f"`memcached` did not answer on {location} within {START_SECONDS} seconds"
    raise NoMemcachedError(msg)


def _answers(location: str) -> bool:
    client = pymemcache.Client(location, connect_timeout=1, timeout=1)
    try:
        return bool(client.version())
    except (OSError, pymemcache.MemcacheError):
        return False
    finally:
        client.close()


def _is_local(location: str) -> bool:
    try:
        server = normalize_server_spec(location)
        if isinstance(server, str):
            return True  # a unix socket
        found = socket.getaddrinfo(*server, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return False
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
