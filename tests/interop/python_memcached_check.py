"""python-memcached, the oldest client for Python, against a server: python_memcached_check.py HOST
PORT."""

import sys

import memcache


def check(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: got {got!r:.300}, wanted {wanted!r:.300}")


client = memcache.Client([f"{sys.argv[1]}:{sys.argv[2]}"], debug=1, socket_timeout=30, cache_cas=True)
check("set", client.set("a", "text"), True)
check("get", client.get("a"), "text")
check("a number", (client.set("n", 41), client.incr("n"), client.decr("n", 2), client.get("n")), (True, 42, 40, 40))
check("an object", (client.set("o", {"x": [1, 2.5, None]}), client.get("o")), (True, {"x": [1, 2.5, None]}))
check("compressed", (client.set("c", "long " * 10000, min_compress_len=100), client.get("c")), (True, "long " * 10000))
check("add of what is there", client.add("a", "x"), False)
check("replace", client.replace("a", "y"), True)
check("append", (client.append("a", "z"), client.prepend("a", "x"), client.get("a")), (True, True, "xyz"))
check("gets and cas", (client.gets("a"), client.cas("a", "new"), client.get("a")), ("xyz", True, "new"))
client.gets("a")
client.set("a", "meanwhile")
check("cas, too late", bool(client.cas("a", "late")), False)
check("touch", bool(client.touch("a", 100)), True)
check("delete", (bool(client.delete("a")), client.get("a")), (True, None))
check("set_multi", client.set_multi({f"m{n}": n for n in range(1000)}, key_prefix="p"), [])
check("get_multi", client.get_multi([f"m{n}" for n in range(2000)], key_prefix="p"), {f"m{n}": n for n in range(1000)})
check("delete_multi", client.delete_multi([f"m{n}" for n in range(1000)], key_prefix="p"), 1)
check("stats", len(client.get_stats()) == 1 and "curr_items" in client.get_stats()[0][1], True)
client.flush_all()
check("flushed", client.get("n"), None)
print("python-memcached: all passed")
