"""A primary with as much memory as a guest can have, joined over verbs: how long a device takes to
register it, whether the server answers meanwhile and says how far it is, how soon a replica then
follows."""

import re

from . import builds
from .guest import ORDERS, Guest, GuestFailed, script_text
from .image import Image
from .outcome import Outcome
from .rows import wait_for_rows

GOAL_MEBIBYTES = 16 << 10
# What the host keeps for itself, and the guest for all but the cache.
HOST_MEBIBYTES = 3 << 10
GUEST_MEBIBYTES = 2 << 10
LEAST_MEBIBYTES = 1 << 10
CLIENTS, REPLICA_CLIENTS, REPLICATION = "127.0.0.1:11211", "127.0.0.1:11212", "$REMORA_TEST_VERBS:11300"
SECRET = "/test/secret"
ORDER_SECONDS = 60
REGISTERED_SECONDS = 300
FOLLOWS_SECONDS = 60
LOOK_SECONDS = 0.1
ROW = "replication_fabric_verbs"
PROGRESS = re.compile(r"registering, (\d+) of (\d+) MiB")


def large(machine):
    """a primary with as much memory as a guest can have here, up to 16 GiB: registration, its
    progress, a replica that joins (not run unless it is named)"""
    mebibytes = min(GOAL_MEBIBYTES, available_mebibytes() - HOST_MEBIBYTES - GUEST_MEBIBYTES)
    if mebibytes < LEAST_MEBIBYTES:
        raise SystemExit(f"large: needs {LEAST_MEBIBYTES + HOST_MEBIBYTES + GUEST_MEBIBYTES} MiB of free memory here")
    image = Image(machine.kernel)
    built = builds.build("build", "--release", "--locked")
    image.program(builds.lean(built["bin", "remora"]), "usr/bin/remora")
    image.text(SECRET.lstrip("/"), "for measurements only", mode=0o600)
    with Guest(machine, "large", image, script_text(ORDERS), more_mebibytes=mebibytes + GUEST_MEBIBYTES) as guest:
        guest.up(ORDER_SECONDS)
        try:
            serve(guest, "primary", f"-l {CLIENTS} -m {mebibytes} --replication {REPLICATION}")
            seen, took = registered(guest)
            serve(guest, "replica", f"-l {REPLICA_CLIENTS} -m {mebibytes} --replica-of {REPLICATION}")
            _, joined = wait_for_rows(guest, REPLICA_CLIENTS, "a replica follows", FOLLOWS_SECONDS, LOOK_SECONDS,
                                      lambda rows: rows.get("state") == "following")
        except GuestFailed as failure:
            logs = "\n".join(guest.ask("tail -n 5 /tmp/*.log", ORDER_SECONDS))
            raise GuestFailed(f"{failure}\nthe servers' logs end with\n{logs}") from failure
        guest.dismiss(ORDER_SECONDS)
    print(f"large: {mebibytes} MiB of plain pages were registered in {took:.1f} s ({len(seen)} states of progress seen, "
          f"the server answered at each); for {GOAL_MEBIBYTES} MiB that makes {took * GOAL_MEBIBYTES / mebibytes:.1f} s; "
          f"a replica followed over verbs after {joined:.1f} s")
    return Outcome(1, 0)


def available_mebibytes():
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("MemAvailable:"))


def serve(guest, name, flags):
    guest.order(f"remora serve -t 1 --no-pin --fabric verbs --secret-file {SECRET} {flags} >/tmp/{name}.log 2>&1 </dev/null &", ORDER_SECONDS)


def registered(guest):
    """The mebibytes that were said to be done, in order, and how long it took until all were."""
    seen = []

    def are_ready(rows):
        if found := PROGRESS.match(rows.get(ROW, "")):
            done = int(found[1])
            if seen and done < seen[-1]:
                raise guest.failed(f"registration went back, from {seen[-1]} to {done} MiB")
            if not seen or done > seen[-1]:
                seen.append(done)
        return rows.get(ROW) == "ready"

    _, took = wait_for_rows(guest, CLIENTS, "all memory is registered", REGISTERED_SECONDS, LOOK_SECONDS, are_ready)
    if len(seen) < 2:
        raise guest.failed(f"no progress of the registration was seen: {seen}")
    return seen, took
