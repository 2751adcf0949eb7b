"""The first command of a client with a key is noticed, and none after it."""

from __future__ import annotations

import gc
import weakref

import pylibmc
import pymemcache
import pytest
from pymemcache.client.base import PooledClient
from pymemcache.client.retrying import RetryingClient

from namespaced_cache.adapters.first_command import before_first_command


class OwnClient(pylibmc.Client):
    """A class of a project's own."""


#: Ways to make a client of a server.
CLIENTS = {
    "HashClient": lambda server: pymemcache.HashClient([server.location]),
    "Client": lambda server: pymemcache.Client(server.location),
    "PooledClient": lambda server: PooledClient(server.location),
    "RetryingClient": lambda server: RetryingClient(
        pymemcache.Client(server.location), attempts=2
    ),
    "pylibmc": lambda server: pylibmc.Client([server.location]),
    "own": lambda server: OwnClient([server.location]),
}

EACH_CLIENT = pytest.mark.parametrize("name", CLIENTS)

#: Commands that both libraries have.
COMMANDS = {
    "get": lambda client: client.get("k"),
    "set": lambda client: client.set("k", "v"),
    "add": lambda client: client.add("k", "v"),
    "delete": lambda client: client.delete("k"),
    "touch": lambda client: client.touch("k", 10),
    "get_multi": lambda client: client.get_multi(["k"]),
    "set_multi": lambda client: client.set_multi({"k": "v"}),
}


@pytest.fixture
def make(name, server):
    """Make a client of the kind `name`. It is closed at the end."""
    made = []

    def make():
        made.append(CLIENTS[name](server))
        return made[-1]

    yield make
    for client in made:
        getattr(client, "close", client.disconnect_all)()


@EACH_CLIENT
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_first_command_is_noticed_and_does_what_it_always_does(make, command):
    ours, theirs = make(), make()
    noticed = []
    before_first_command(ours, lambda: noticed.append(theirs.get("k")))
    theirs.set("k", "before")
    expected = command(theirs)
    theirs.set("k", "before")
    assert command(ours) == expected
    assert noticed in (["before"], [b"before"])
    command(ours)
    assert len(noticed) == 1


@pytest.mark.parametrize(
    "access",
    [
        lambda client: client["k"],
        lambda client: client.__setitem__("k", "v"),
        lambda client: client.__delitem__("k"),
    ],
    ids=["get", "set", "delete"],
)
@pytest.mark.parametrize("name", ["Client", "pylibmc"])
def test_item_access_is_noticed(make, access):
    client = make()
    client.set("k", "v")
    noticed = []
    before_first_command(client, lambda: noticed.append(1))
    access(client)
    assert noticed == [1]


@EACH_CLIENT
def test_what_takes_no_key_is_not_noticed(make):
    client = make()
    before_first_command(client, pytest.fail)
    for name in ("get_stats", "stats", "disconnect_all", "close"):
        if hasattr(type(client), name):
            getattr(client, name)()


@EACH_CLIENT
def test_the_class_is_still_the_clients_own(make):
    client = make()
    own_class = type(client)
    end = before_first_command(client, pytest.fail)
    assert isinstance(client, own_class)
    assert repr(type(client)) == repr(own_class)
    end()
    assert type(client) is own_class
    client.set("k", "v")
    end()


def test_the_client_is_not_kept_alive(server):
    """On Python 3.13, pylibmc 1.6.3 itself keeps each client alive."""
    client, bare = (pylibmc.Client([server.location]) for _ in range(2))
    ours, theirs = weakref.ref(client), weakref.ref(bare)
    end = before_first_command(client, pytest.fail)
    del client, bare
    gc.collect()
    assert (ours() is None) is (theirs() is None)
    end()


def test_a_clone_of_the_client_is_noticed_too(server):
    client = pylibmc.Client([server.location])
    noticed = []
    before_first_command(client, lambda: noticed.append(1))
    clone = client.clone()
    clone.set("k", "of a clone")
    assert clone.get("k") == "of a clone"
    assert noticed == [1]
