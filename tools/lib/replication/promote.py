"""A promotion by hand: how soon after the order a write is accepted, and how soon another replica
follows the new primary.

A primary with two replicas, each of which could be followed, is killed. Then `remora ctl promote`
is given to one, and SETs are tried there one after the other: the time from the start of that
program to the first that is stored. Then `remora ctl replicate` is given to the other: the time
until it says that it follows, and until a value written to the new primary is read there. For
Valkey the same with valkey-cli and REPLICAOF.
"""

import contextlib
import shutil
import subprocess
import tempfile
import time

from lib.fetching import program
from lib.replication.family import (
    Unable,
    connect,
    knows,
    running,
    wait_until,
    without_push,
)
from lib.replication.plots import bars
from lib.replication.stamps import set_request, stamps
from lib.replication.told import Held, Table, Told
from lib.report import Figure, progress
from lib.servers import WAIT_SECONDS, bound
from lib.traffic import in_order

NAME = "promote"
TITLE = "Promotion by hand"
MEBIBYTES = 128
ACCEPT_GOAL_MS, FOLLOW_GOAL_MS = 50.0, 100.0
KEYS = ("accepted_ms", "order_ms", "following_ms", "read_ms")


def measure(run):
    can = knows(run.remora[0], "ctl", "promote") and knows(run.remora[0], "ctl", "replicate")
    if not can:
        raise Unable("this remora has no `ctl promote` and `ctl replicate`")
    families = [one for one in without_push(run.families) if one.is_remora or shutil.which(program("valkey-cli"))]
    rounds = []
    for number in range(run.promote_rounds):
        rounds.append({family.name: one_round(run, family) for family in in_order(families, number)})
        said = ", ".join(f"{name} {one['accepted_ms']:.1f}, {one['following_ms']:.1f}" for name, one in rounds[-1].items())
        progress(f"promote, round {number + 1} of {run.promote_rounds}: ms until accepted, following: {said}")
    return {"goals_of": [family.name for family in families if family.is_remora], "rounds": rounds}


def order(run, family, server, *words):
    """The program that gives the order, started."""
    if family.is_remora:
        command = [run.remora[0], "ctl", "-s", f"127.0.0.1:{server.port}", *words]
    else:
        command = [program("valkey-cli"), "-p", str(server.port), *words]
    return subprocess.Popen(bound(run.cores.load, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process):
    said, _ = process.communicate(timeout=WAIT_SECONDS)
    if process.returncode:
        raise Unable(f"{' '.join(process.args)} ended with {process.returncode}: {said.strip()[-500:]}")


def one_round(run, family):
    generator = run.generator(connections=10, keys=10_000, value_bytes=100, seconds=1)
    offers = family.offer_flags()
    with (
        tempfile.TemporaryDirectory() as folder,
        running(family, folder, run.cores, MEBIBYTES, 2, replica_flags=offers) as (primary, (chosen, other)),
    ):
        generator.fill(primary, 0)
        wait_until("catching up", lambda: family.has_all(primary, [chosen, other]))
        follow = family.offered_at(chosen)
        primary.end()
        begin = time.monotonic()
        promotion = order(run, family, chosen, *(("promote",) if family.is_remora else ("REPLICAOF", "NO", "ONE")))
        accepted = until_stored(family, chosen, begin)
        finished(promotion)
        order_took = time.monotonic() - begin
        begin = time.monotonic()
        pointing = order(run, family, other, *(("replicate", follow) if family.is_remora else ("REPLICAOF", *follow.split())))
        following = until_following(family, chosen, other, begin)
        with contextlib.closing(pointing.stdout):
            late_us, missing = stamps(family, chosen, other, 1, 0)
            read = time.monotonic() - begin
            finished(pointing)
        if missing or not late_us:
            raise Unable(f"{family.name}: what was written to the new primary did not come to the other replica")
    seconds = {"accepted_ms": accepted, "order_ms": order_took, "following_ms": following, "read_ms": read}
    return {name: value * 1e3 for name, value in seconds.items()}


def until_stored(family, server, begin):
    """Seconds from `begin` until a SET was stored; refusals are tried again at once."""
    request, stored = set_request(family.is_remora, b"promoted", b"yes"), b"STORED" if family.is_remora else b"+OK"
    with contextlib.closing(connect(server)) as connection:
        while time.monotonic() - begin < WAIT_SECONDS:
            answer = one_line(connection, request)
            if answer.startswith(stored):
                return time.monotonic() - begin
    raise Unable(f"{family.name}: no write was accepted within {WAIT_SECONDS} s; the last answer was {answer!r}")


def one_line(connection, request):
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b"\r\n"):
        try:
            piece = connection.recv(1 << 12)
        except TimeoutError:
            raise Unable("a server did not answer") from None
        if not piece:
            raise Unable("a server hung up")
        answer += piece
    return answer


def until_following(family, chosen, other, begin):
    """Seconds from `begin` until the other replica follows, by the account of the one that it
    follows."""
    wait_until(f"{family.name}: following the promoted one", lambda: family.has_all(chosen, [other]))
    return time.monotonic() - begin


def tell(results):
    rounds, told = results["rounds"], Told(TITLE)
    heads = {
        "accepted_ms": "order to first write stored", "order_ms": "to the order's end",
        "following_ms": "order to other replica following", "read_ms": "to a new value read there",
    }
    rows, drawn = [], []
    for family in rounds[0]:
        of = {key: Figure.of([one[family][key] for one in rounds]) for key in KEYS}
        rows.append([family, *(of[key].show(".1f") for key in KEYS)])
        drawn.append((family, [("write stored", of["accepted_ms"]), ("replica follows", of["following_ms"])]))
        if family in results["goals_of"]:
            of_rounds = {"unit": "ms", "of": "greatest", "form": ".1f"}
            told.goals.append(Held(f"{family}: order to first write stored", of["accepted_ms"], ACCEPT_GOAL_MS, **of_rounds))
            told.goals.append(Held(f"{family}: order to other replica following", of["following_ms"], FOLLOW_GOAL_MS, **of_rounds))
    said = f"Milliseconds from the start of the program that gives the order; medians of {len(rounds)} rounds (least..greatest)."
    told.tables.append(Table(said, ["", *heads.values()], rows))
    told.plots.append(bars("A promotion by hand", "ms", drawn))
    return told
