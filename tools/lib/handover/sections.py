"""What is measured of shards that change their primary: one section each, as figures, tables and
goals."""

import contextlib
import tempfile
import time

from lib.handover.writing import Window, due_in, latencies, longest_gap_ms, writing
from lib.replication import promote
from lib.replication.family import Unable, connect, remora_rows, running, wait_until
from lib.replication.told import Held, Table, Told, percentile
from lib.report import Figure, progress

VALUE_BYTES = 1000
# Header, key and padding of such a record.
RECORD_BYTES = VALUE_BYTES + 40
SHARD_MEBIBYTES = 64
# More than a shard holds: reclaim then moves nothing, and evicts nothing.
ROOM_MEBIBYTES = 128
FEW_SHARDS = 4
MANY_SHARDS = 256
HANDED_SHARDS = 100
MANY_MEBIBYTES = 1024
REST_SECONDS = 0.3
# Of a rest, its end.
ALONE_NS = int(0.15e9)

PAUSE_GOAL_MS = 10.0
DONE_GOAL_MS = 10_000.0
LATENCY_GOAL = 3.0
PROMOTION_GOAL_MS = 100.0


def take_over(run, heir, shards):
    """Have the heir take over these shards from the other; from the start of the program that gives
    the order to its end."""
    begin = time.monotonic_ns()
    promote.finished(promote.order(run, run.family, heir, "promote", "--take-over", "--shards", shards))
    return Window(begin, time.monotonic_ns())


def look(run, server, _shards=None):
    """What hand-overs are held against: the same program is started, and only asks. On few cores a
    program that starts is noticed by itself."""
    begin = time.monotonic_ns()
    promote.finished(promote.order(run, run.family, server, "replication"))
    return Window(begin, time.monotonic_ns())


def parts(count, size):
    """The shards from 0 on in so many at a time, as orders name them."""
    return [f"{first}-{min(first + size, count) - 1}" for first in range(0, count, size)]


@contextlib.contextmanager
def pair(run, shards, mebibytes):
    """A server that is the primary of all shards and one that follows it; each can be followed."""
    flags = ("--shards", str(shards))
    with (
        tempfile.TemporaryDirectory() as folder,
        running(run.family, folder, run.cores, mebibytes, 1, flags, replica_flags=run.family.offer_flags()) as (first, (second,)),
    ):
        yield folder, [first, second]


def next_heir(servers, number):
    """Who takes over there, or back, once it follows."""
    heir = servers[1 - number % 2]
    wait_until("following", lambda: remora_rows(heir).get("state") == "following")
    return heir


class One:
    """A shard is handed over under full write load."""

    NAME, TITLE = "one", "One shard, under full write load"

    @staticmethod
    def measure(run):
        keys = (SHARD_MEBIBYTES << 20) // RECORD_BYTES
        flags = ("--shards", str(FEW_SHARDS), "--only", "0-1", "--keys", str(keys), "--value-bytes", str(VALUE_BYTES), "--pipeline", str(run.pipeline))
        with pair(run, FEW_SHARDS, FEW_SHARDS * ROOM_MEBIBYTES) as (folder, servers), writing(run.writers, run.cores.load, servers, folder, flags) as end:
            windows, quiet, orders_ms = [], [], []
            for number in range(run.times):
                heir = next_heir(servers, number)
                time.sleep(REST_SECONDS)
                quiet.append(look(run, heir))
                time.sleep(REST_SECONDS)
                windows.append(take_over(run, heir, "0"))
                orders_ms.append(float(remora_rows(heir)["order_us"]) / 1e3)
            time.sleep(REST_SECONDS)
            written = end()
        seconds = (written[-1].stored - written[0].stored) / 1e9
        return {
            "handed": longest_gap_ms(written, 0, windows), "handed_before": longest_gap_ms(written, 0, quiet),
            "other": longest_gap_ms(written, 1, windows), "other_before": longest_gap_ms(written, 1, quiet),
            "order": orders_ms, "writes_per_second": len(written) / seconds, "keys": keys,
        }

    @staticmethod
    def tell(run, figures):
        told = Told(One.TITLE)
        heads = {
            "handed": "the shard, while it is handed over", "handed_before": "the shard, before",
            "other": "another shard of the first server, meanwhile", "other_before": "that one, before", "order": "the order, by the heir's account",
        }
        shown = lambda values: [f"{Figure.of(values).median:.2f}", f"{percentile(values, 0.9):.2f}", f"{max(values):.2f}"]
        rows = [[head, *shown(figures[name])] for name, head in heads.items()]
        said = (
            f"Milliseconds, the longest between two acknowledged writes of a shard; {len(figures['handed'])} hand-overs, there and back in turn; before: "
            f"while the same program only asks how replication stands. Each shard holds {figures['keys']:,} items of {VALUE_BYTES} bytes, {SHARD_MEBIBYTES} MiB; {run.pipeline} writes to each of two are always under way, "
            f"{figures['writes_per_second']:,.0f} a second together."
        )
        told.tables.append(Table(said, ["", "median", "p90", "max"], rows))
        told.goals.append(Held("one shard: longest gap of its writes", Figure.of(figures["handed"]), PAUSE_GOAL_MS, "ms", form=".2f"))
        beyond = [meanwhile - before for meanwhile, before in zip(figures["other"], figures["other_before"], strict=True)]
        told.goals.append(Held("another shard: longest gap beyond before", Figure.of(beyond), 1.0, "ms", form=".2f"))
        return told


class Many:
    """Many shards are handed over side by side, and a few at a time."""

    NAME, TITLE = "many", f"{HANDED_SHARDS} of {MANY_SHARDS} shards, under load"

    @staticmethod
    def measure(run):
        flags = ("--shards", str(MANY_SHARDS), "--only", f"0-{MANY_SHARDS - 1}", "--keys", "200", "--rate", str(run.rate))
        with pair(run, MANY_SHARDS, MANY_MEBIBYTES) as (folder, servers), writing(run.writers, run.cores.load, servers, folder, flags) as end:
            taken = {size: Many.rounds(run, servers, size) for size in run.parts}
            time.sleep(REST_SECONDS)
            written = end()
        others = [one for one in written if one.shard >= HANDED_SHARDS]
        alone = lambda quiet: [Window(window.begin - ALONE_NS, window.begin) for window in quiet]
        return {
            str(size): {
                "done_ms": [window.milliseconds for window in handed], "alone": latencies(due_in(written, alone(quiet))),
                "before": latencies(due_in(written, quiet)), "meanwhile": latencies(due_in(written, handed)), "others": latencies(due_in(others, handed)),
            }
            for size, (handed, quiet) in taken.items()
        }

    @staticmethod
    def rounds(run, servers, size):
        """Windows from the first order to the end of the last, and windows with as many
        questions."""
        handed, quiet = [], []
        # There and back: the first server has all shards at the end.
        for number in range(2 * run.rounds):
            heir = next_heir(servers, number)
            for act, windows in ((look, quiet), (take_over, handed)):
                time.sleep(REST_SECONDS)
                orders = [act(run, heir, part) for part in parts(HANDED_SHARDS, size)]
                windows.append(Window(orders[0].begin, orders[-1].end))
        progress(f"many, {size} at a time: {', '.join(f'{one.milliseconds:.0f}' for one in handed)} ms")
        return handed, quiet

    @staticmethod
    def tell(run, figures):
        told = Told(Many.TITLE)
        rows = []
        for size, one in figures.items():
            before, meanwhile = one["before"], one["meanwhile"]
            shown = [f"{of[name]:.2f}" for of in (one["alone"], before, meanwhile, one["others"]) for name in ("p99", "max")]
            ratio = meanwhile["p99"] / before["p99"]
            rows.append([size, Figure.of(one["done_ms"]).show(".1f"), *shown, f"{ratio:.1f}", f"{meanwhile['refused_share']:.1%}", f"{meanwhile['count']:,}"])
            told.goals.append(Held(f"{size} at a time: p99 meanwhile to before", Figure.of([ratio]), LATENCY_GOAL, form=".1f"))
        told.goals.append(Held(f"{HANDED_SHARDS} in one order: until done", Figure.of(figures[str(run.parts[0])]["done_ms"]), DONE_GOAL_MS, "ms", of="greatest", form=".1f"))
        said = (
            f"Milliseconds; {2 * run.rounds} times, there and back in turn. {run.rate:,} writes of 100 bytes a second, evenly spaced, over all shards, by clients "
            f"that follow refusals. Meanwhile: writes that were due between the first order's start and the last one's end; others: those of them to shards "
            f"that stay; before: while as many programs only ask how replication stands; alone: while no program is started."
        )
        head = ["at a time", "until done", "p99 alone", "max", "p99 before", "max", "p99 meanwhile", "max", "p99 others", "max", "p99 to before", "refused", "writes"]
        told.tables.append(Table(said, head, rows))
        return told


class Dead:
    """All shards are promoted at once after their primary's kill -9, gathered from two others."""

    NAME, TITLE = "dead", f"{MANY_SHARDS} shards whose primary was killed, gathered from two replicas"

    @staticmethod
    def measure(run):
        figures = {"accepted_ms": [], "order_ms": [], "every_ms": []}
        for number in range(run.promotions):
            for name, value in Dead.one_round(run).items():
                figures[name].append(value)
            progress(f"dead, {number + 1} of {run.promotions}: {figures['accepted_ms'][-1]:.1f} ms until a write was stored")
        return figures

    @staticmethod
    def one_round(run):
        family, flags = run.family, ("--shards", str(MANY_SHARDS))
        generator = run.generator(connections=10, keys=100_000, value_bytes=100, seconds=1)
        with (
            tempfile.TemporaryDirectory() as folder,
            running(family, folder, run.cores, MANY_MEBIBYTES, 3, flags, replica_flags=family.offer_flags()) as (primary, (heir, *others)),
        ):
            generator.fill(primary, 0)
            wait_until("catching up", lambda: family.has_all(primary, [heir, *others]))
            gather = [word for other in others for word in ("--gather", family.offered_at(other))]
            with generator.begun(primary, ("-P", "16", "--ratio", "1:0")):
                time.sleep(REST_SECONDS)
                primary.end()
            begin = time.monotonic()
            ordered = promote.order(run, family, heir, "promote", *gather)
            accepted = promote.until_stored(family, heir, begin)
            every = until_every_shard(heir, begin)
            promote.finished(ordered)
            order_took = time.monotonic() - begin
            if remora_rows(heir)["shards_primary"] != f"0-{MANY_SHARDS - 1}":
                raise Unable("the promoted server is not the primary of every shard")
        return {"accepted_ms": accepted * 1e3, "order_ms": order_took * 1e3, "every_ms": every * 1e3}

    @staticmethod
    def tell(run, figures):
        told = Told(Dead.TITLE)
        heads = {"accepted_ms": "order to first write stored", "every_ms": f"to a write stored for each of {EVERY_KEYS:,} keys", "order_ms": "to the order's end"}
        said = (
            f"Milliseconds from the start of the program that gives the order; {len(figures['order_ms'])} kills under write load (10 connections, 16 in flight "
            f"each); the least and the greatest beside the median."
        )
        row = [Figure.of(figures[name]).show(".1f") for name in heads]
        told.tables.append(Table(said, ["", *heads.values()], [[run.family.name, *row]]))
        told.goals.append(Held("order to first write stored", Figure.of(figures["accepted_ms"]), PROMOTION_GOAL_MS, "ms", of="greatest", form=".1f"))
        return told


# So many that each shard has some.
EVERY_KEYS = 5000


def until_every_shard(server, begin):
    """Seconds from `begin` until keys of every shard were stored, none refused."""
    request = b"".join(b"set every:%d 0 0 1\r\nx\r\n" % key for key in range(EVERY_KEYS))
    with contextlib.closing(connect(server)) as connection:
        connection.sendall(request)
        answer = b""
        while answer.count(b"\n") < EVERY_KEYS:
            piece = connection.recv(1 << 16)
            if not piece:
                raise Unable("the promoted server hung up")
            answer += piece
    if answer != b"STORED\r\n" * EVERY_KEYS:
        raise Unable("a shard of the promoted server takes no writes once another does")
    return time.monotonic() - begin


SECTIONS = {section.NAME: section for section in (One, Many, Dead)}
