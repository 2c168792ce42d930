"""pylibmc, Python's client over libmemcached, with SASL: pylibmc_check.py HOST PORT USER PASSWORD.
Ends with an error at once."""

import glob
import os
import sys

# Its wheel brings a libsasl of its own, which does not know where this machine has its mechanisms.
os.environ.setdefault("SASL_PATH", ":".join(glob.glob("/usr/lib/*/sasl2")))
import pylibmc  # noqa: E402

HOST, PORT, USER, PASSWORD = sys.argv[1:]


def connect(user, password):
    return pylibmc.Client([f"{HOST}:{PORT}"], binary=True, username=user, password=password)


def check(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: got {got!r:.300}, wanted {wanted!r:.300}")


known = connect(USER, PASSWORD)
check("set", known.set("key", {"a": [1, 2.5, None]}), True)
check("get", known.get("key"), {"a": [1, 2.5, None]})
items = {f"many-{at}": f"value {at}" for at in range(1000)}
check("set_multi", known.set_multi(items), [])
check("get_multi", known.get_multi(list(items)), items)
check("incr", known.set("number", 40) and known.incr("number", 2), 42)
check("delete", known.delete("key"), True)

for user, password in ((USER, PASSWORD + "x"), (USER, PASSWORD[:-1]), (USER + "x", PASSWORD)):
    try:
        connect(user, password).set("stranger", 1)
    except pylibmc.Error:
        continue
    sys.exit(f"{user}:{password} was served")
print("passed")
