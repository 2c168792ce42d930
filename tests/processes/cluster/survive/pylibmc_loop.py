"""libmemcached by pylibmc through what happens to a cluster: pylibmc_loop.py HOST:PORT,..."""

import sys

import pylibmc
from loop import run

# A SERVER_ERROR counts as a failure of the server that says it, so one that lives may be left out,
# too: for dead_timeout alone.
behaviors = {
    "ketama": True,
    "remove_failed": 1,
    "retry_timeout": 1,
    "dead_timeout": 3,
    "connect_timeout": 1000,
    "send_timeout": 6_000_000,
    "receive_timeout": 6_000_000,
}
client = pylibmc.Client(sys.argv[1].split(","), behaviors=behaviors)
run("pylibmc", client.set, client.get, client.delete)
