"""Valkey's atomic slot migration: one server of a cluster gives half of its slots to another, while
keys in those slots and in the others are written at a steady rate.

The writer follows the slots: from the first answer that says MOVED on it writes the moved half to
the new owner.
"""

import binascii
import contextlib
import multiprocessing
import socket
import tempfile
import time

from lib.replication.family import Unable, wait_until
from lib.servers import WAIT_SECONDS, Kind, Server, free_port

SLOTS = 16_384
BATCH = 64
PORT_MAX = 55_000  # the bus listens 10,000 above


def slot_of(key):
    """CRC16 (XMODEM) of the key."""
    return binascii.crc_hqx(key, 0) % SLOTS


def words(*parts):
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class Talk:
    """A connection that speaks RESP, one command at a time."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)
        self.file = self.socket.makefile("rb")

    def __call__(self, *parts):
        self.socket.sendall(words(*parts))
        return self.answer()

    def answer(self):
        line = self.file.readline().rstrip(b"\r\n")
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        if kind == b"-":
            raise Unable(f"Valkey refuses: {rest.decode()}")
        return rest


def batches(keys, value):
    """Of so many SETs each."""
    sets = [words(b"SET", key, value) for key in keys]
    return [b"".join(sets[at : at + BATCH]) for at in range(0, len(sets) - BATCH + 1, BATCH)]


def write(ports, halves, value, rate, stop, told):
    """Write batches of both halves in turn at this rate; count what was refused, and the longest
    pause."""
    connections = [socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) for port in ports]
    files = [connection.makefile("rb") for connection in connections]
    made = [batches(keys, value) for keys in halves]
    owner, at, begin, sent, longest, errors = [0, 0], 0, time.monotonic(), 0, 0.0, 0
    while not stop.is_set():
        half = at % 2
        batch = made[half][at // 2 % len(made[half])]
        moment = time.monotonic()
        connections[owner[half]].sendall(batch)
        answers = [files[owner[half]].readline() for _ in range(BATCH)]
        longest = max(longest, time.monotonic() - moment)
        if any(answer.startswith(b"-MOVED") for answer in answers):
            owner[half] = 1 - owner[half]
        errors += sum(not answer.startswith((b"+OK", b"-MOVED")) for answer in answers)
        at, sent = at + 1, sent + BATCH
        time.sleep(max(0.0, begin + sent / rate - time.monotonic()))
    told.put({"writes_per_second": sent / (time.monotonic() - begin), "errors": errors, "longest_ms": longest * 1e3})


@contextlib.contextmanager
def written(ports, halves, value, rate, into):
    """Writes beside the block; what the writer saw is put into `into`."""
    stop, told = multiprocessing.Event(), multiprocessing.Queue()
    process = multiprocessing.Process(target=write, args=(ports, halves, value, rate, stop, told), daemon=True)
    process.start()
    try:
        yield
        stop.set()
        into.update(told.get(timeout=WAIT_SECONDS))
    finally:
        process.kill()


def server(run, name, folder):
    """A member of a cluster. Each has a folder of its own, for what it knows of the others."""
    own = tempfile.mkdtemp(prefix=f"{name}-", dir=folder)
    flags = ["--cluster-enabled", "yes", "--dir", own, "--port", str(port_below(PORT_MAX))]
    return Kind(name, "valkey", (run.valkey, *flags))


def port_below(most):
    """A free port, whose port of the bus is one, too."""
    return next(port for port in iter(free_port, None) if port < most)


def migrate(run, folder, rate):
    """Figures of one migration under writes at this rate."""
    value = b"x" * run.value_bytes
    kinds = [server(run, name, folder) for name in ("source", "target")]
    with Started(run, kinds[0], folder) as (source, source_port), Started(run, kinds[1], folder) as (target, target_port):
        source("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        source("CLUSTER", "MEET", "127.0.0.1", target_port)
        knows = lambda talk: b"cluster_known_nodes:2" in talk("CLUSTER", "INFO") and b"cluster_state:ok" in talk("CLUSTER", "INFO")
        wait_until("a cluster of two", lambda: knows(source) and knows(target))
        keys = [b"key:%d" % number for number in range(run.keys)]
        halves = [[key for key in keys if (slot_of(key) < SLOTS // 2) == is_low] for is_low in (True, False)]
        for half in halves:
            for batch in batches(half, value):
                source.socket.sendall(batch)
                for _ in range(BATCH):
                    source.answer()
        begin, saw = None, {}
        with written((source_port, target_port), halves, value, rate, saw):
            time.sleep(1)
            begin = time.monotonic()
            source("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", 0, SLOTS // 2 - 1, "NODE", target("CLUSTER", "MYID"))
            state = wait_for_end(source, run.wait_seconds)
            seconds = time.monotonic() - begin
        moved = target("DBSIZE")
        megabytes = int(moved) * run.value_bytes / 1e6
    return {"state": state, "seconds": seconds, "mb": megabytes, "mb_per_second": megabytes / seconds, **saw}


def wait_for_end(source, seconds_max):
    """The last word about the migration."""
    def state():
        said = source("CLUSTER", "GETSLOTMIGRATIONS")
        row = dict(zip(said[0][::2], said[0][1::2], strict=True)) if said else {}
        return row.get(b"state", b"").decode()
    ends = ("success", "failed", "canceled", "cancelled")
    try:
        wait_until("the migration's end", lambda: state() in ends, seconds_max)
    except Unable:
        return f"not within {seconds_max} s: {state()}"
    return state()


class Started:
    """A Valkey of a cluster, and a connection to it."""

    def __init__(self, run, kind, folder):
        self.server = Server(kind, folder, run.cores, run.threads, run.memory_mebibytes)
        self.port = int(kind.program[kind.program.index("--port") + 1])

    def __enter__(self):
        return Talk(self.port), self.port

    def __exit__(self, *_):
        self.server.end()
