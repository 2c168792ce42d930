"""How many resident bytes an item costs: a server filled with keys of 20 bytes and values of 100
until it evicts."""

import sys
import tempfile

from lib.servers import VALKEY_END, Server, ask

VALUE = b"v" * 100
SETS_PER_WRITE = 5000


def fill(server, sets):
    """Set `sets` keys of 20 bytes, many to a write; only the end of each write is waited for."""
    if server.kind.family == "valkey":
        record, end, answer = b"*3\r\n$3\r\nSET\r\n$20\r\nkey-%016d\r\n$100\r\n%b\r\n", VALKEY_END, b"$3\r\nend\r\n"
    else:
        record, end, answer = b"set key-%016d 0 0 100 noreply\r\n%b\r\n", b"mn\r\n", b"MN\r\n"
    with server.connect() as connection:
        for first in range(0, sets, SETS_PER_WRITE):
            batch = range(first, min(first + SETS_PER_WRITE, sets))
            ask(connection, b"".join(record % (number, VALUE) for number in batch) + end, answer)


def weigh(kind, mebibytes, sets, threads=2):
    """Items held, items evicted, KiB held when empty and when full, and resident bytes an item."""
    with tempfile.TemporaryDirectory() as folder, Server(kind, folder, None, threads, mebibytes) as server:
        empty = server.resident_kib()
        fill(server, sets)
        counted, full = server.stats(), server.resident_kib()
    items, evictions = int(counted["curr_items"]), int(counted["evictions"])
    if not evictions:
        sys.exit(f"{kind.name} evicted nothing of {sets} sets: it is not full; give more sets or less memory")
    resident_bytes = (full["VmRSS"] + full["HugetlbPages"]) * 1024
    held = {"items": items, "evictions": evictions, "empty_kib": empty, "full_kib": full}
    return {**held, "bytes_per_item": resident_bytes / items}
