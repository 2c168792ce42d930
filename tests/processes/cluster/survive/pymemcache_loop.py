"""pymemcache through what happens to a cluster: pymemcache_loop.py HOST:PORT,...

It discovers the servers as clients of ElastiCache do, at the first of these.
"""

import sys

from loop import run
from pymemcache.client.base import Client
from pymemcache.client.hash import HashClient

host, port = sys.argv[1].split(",")[0].rsplit(":", 1)
asked = Client((host, int(port)))
listed = asked.raw_command(b"config get cluster", end_tokens=b"\n\r\nEND\r\n").splitlines()[2].decode()
asked.close()
servers = [(address, int(port)) for _, address, port in (node.split("|") for node in listed.split(" "))]
assert len(servers) == len(sys.argv[1].split(",")), servers
client = HashClient(servers, connect_timeout=1, timeout=6, retry_attempts=0, default_noreply=False)


def get(key):
    value = client.get(key)
    return value if value is None else value.decode()


run("pymemcache", client.set, get, client.delete)
