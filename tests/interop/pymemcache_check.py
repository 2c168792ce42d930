"""pymemcache, the client of Pinterest's, against a server: pymemcache_check.py HOST PORT. Ends with
an error at once."""

import os
import sys

from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError

ADDRESS = (sys.argv[1], int(sys.argv[2]))


def check(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: got {got!r:.300}, wanted {wanted!r:.300}")


def refused(what, error, call):
    try:
        call()
    except error:
        return
    sys.exit(f"{what}: was not refused")


def basics(client, name):
    key = f"{name}-key"
    check("set", client.set(key, b"one"), True)
    check("get", client.get(key), b"one")
    check("get with a default", client.get(f"{name}-none", b"default"), b"default")
    check("add of what is there", client.add(key, b"two"), False)
    check("replace", client.replace(key, b"three"), True)
    check("append", client.append(key, b"+"), True)
    check("prepend", client.prepend(key, b"-"), True)
    check("get of it all", client.get(key), b"-three+")
    value, cas = client.gets(key)
    check("gets", value, b"-three+")
    check("cas", client.cas(key, b"four", cas), True)
    check("cas, the old one", client.cas(key, b"five", cas), False)
    check("cas of nothing", client.cas(f"{name}-none", b"five", cas), None)
    check("touch", client.touch(key, 100, noreply=False), True)
    gat = client.raw_command(f"gat 100 {key}", b"END\r\n") if hasattr(client, "raw_command") else None
    check("gat", gat, gat and f"VALUE {key} 0 4\r\nfour\r\n".encode())
    check("delete", client.delete(key, noreply=False), True)
    check("delete again", client.delete(key, noreply=False), False)
    check("get of the deleted", client.get(key), None)


def arithmetic(client):
    check("set 41", client.set("number", "41", noreply=False), True)
    check("incr", client.incr("number", 1), 42)
    check("decr", client.decr("number", 40), 2)
    check("decr below zero", client.decr("number", 40), 0)
    check("incr of nothing", client.incr("no-number", 1), None)
    check("incr to the top", client.incr("number", 2**64 - 1), 2**64 - 1)
    check("incr over the top", client.incr("number", 1), 0)
    client.set("words", "abc", noreply=False)
    refused("incr of words", MemcacheClientError, lambda: client.incr("words", 1))


def many(client):
    items = {f"many-{n}": f"value {n} ".encode() * (n % 40) for n in range(5000)}
    check("set_many", client.set_many(items, noreply=False), [])
    check("get_many", client.get_many(list(items)), items)
    check("gets_many", {key: pair[0] for key, pair in client.gets_many(list(items)).items()}, items)
    client.set_many({key: b"again" for key in items}, noreply=True)
    check("get_many again", client.get_many(list(items)), {key: b"again" for key in items})
    check("delete_many", client.delete_many(list(items)[:2500], noreply=False), True)
    check("get_many of the rest", len(client.get_many(list(items))), 2500)


def values(client):
    large = os.urandom(1024 * 1024 - 1024)
    check("set 1 MiB - 1 KiB", client.set("large", large, noreply=False), True)
    check("get 1 MiB - 1 KiB", client.get("large"), large)
    refused(
        "2 MiB",
        MemcacheServerError,
        lambda: client.set("large", b"x" * 2 * 1024 * 1024, noreply=False),
    )
    check("what was too large is gone", client.get("large"), None)
    every_byte = bytes(range(256)) * 16
    check("set every byte", client.set("bytes", every_byte, noreply=False), True)
    check("get every byte", client.get("bytes"), every_byte)
    check("an empty value", (client.set("empty", b"", noreply=False), client.get("empty")), (True, b""))
    for size in (1, 2, 100, 1023, 1024, 4096, 16384, 65536, 300000):
        value = os.urandom(size)
        client.set("sized", value, noreply=False)
        check(f"{size} bytes", client.get("sized"), value)
    client.set("flagged", b"x", flags=2**32 - 1, noreply=False)
    check("a key of 250 bytes", (client.set("k" * 250, b"x", noreply=False), client.get("k" * 250)), (True, b"x"))
    refused("a key of 251 bytes", MemcacheClientError, lambda: client.get("k" * 251))


def expiry(client):
    client.set("gone", b"x", expire=-1, noreply=False)
    check("expired", client.get("gone"), None)
    client.set("there", b"x", expire=100, noreply=False)
    check("not expired", client.get("there"), b"x")


def unicode_keys():
    client = Client(ADDRESS, allow_unicode_keys=True, encoding="utf-8", timeout=30)
    key, value = "clé-ключ-鍵", "värde-значение-値"
    check("set in Unicode", client.set(key, value, noreply=False), True)
    check("get in Unicode", client.get(key).decode(), value)
    check("get_many in Unicode", client.get_many([key]), {key: value.encode()})


def server_commands(client):
    check("stats", client.stats()[b"pointer_size"], 64)
    if not client.version():
        sys.exit("version: nothing")
    client.set("flushed", b"x", noreply=False)
    check("flush_all", client.flush_all(noreply=False), True)
    check("get of the flushed", client.get("flushed"), None)
    check("cache_memlimit", client.cache_memlimit(256), True)


client = Client(ADDRESS, timeout=30, default_noreply=False)
basics(client, "plain")
arithmetic(client)
many(client)
values(client)
expiry(client)
server_commands(client)
basics(PooledClient(ADDRESS, max_pool_size=4, timeout=30, default_noreply=False), "pooled")
hashing = HashClient([ADDRESS], timeout=30, default_noreply=False)
check("hashed set", hashing.set("hashed", b"x"), True)
check("hashed get", hashing.get("hashed"), b"x")
check("hashed set_many", hashing.set_many({f"h{n}": b"y" for n in range(100)}), [])
check("hashed get_many", len(hashing.get_many([f"h{n}" for n in range(200)])), 100)
check("hashed delete", hashing.delete("hashed"), True)
unicode_keys()
print("pymemcache: all passed")
