"""What a server in a guest says of its replication."""

import json
import time

ASK_SECONDS = 60


def rows_of(guest, clients):
    """`remora ctl replication` of the server at the address `clients`; none while it does not
    answer."""
    lines = guest.ask(f"remora ctl replication --json -s {clients}", ASK_SECONDS)
    try:
        return json.loads("\n".join(lines))
    except ValueError:
        return {}


def wait_for_rows(guest, clients, what, seconds, look_seconds, are_so):
    """Wait until a server's rows are so; the rows, and how long it took."""
    begun = time.monotonic()
    while True:
        rows = rows_of(guest, clients)
        if are_so(rows):
            return rows, time.monotonic() - begun
        if time.monotonic() - begun > seconds:
            raise guest.failed(f"{what}: not within {seconds} s; replication says {rows}")
        time.sleep(look_seconds)
