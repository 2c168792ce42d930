"""A cluster of Remora that grows: three servers under load, and a fourth that is added.

An unmodified client (`remora load`, with the list of the three) reads and writes at a steady rate
all the while. Beside it, 32 keys are written one at a time each, by a process of its own: the
longest time between two answers about a key is the longest pause of that key's shard.
"""

import contextlib
import json
import multiprocessing
import selectors
import socket
import subprocess
import time
from pathlib import Path

from lib.replication.family import Family, wait_until
from lib.servers import Kind, Server, bound, free_port, let_run

SHARDS = 64
PROBED_KEYS = 32
PROBE_BYTES = 16
STEADY_SECONDS = 3
LACKING_SHARE = 0.01


class Cluster:
    """A locator and its servers. Ends with its `with` block."""

    def __init__(self, run, folder):
        self.run, self.folder = run, Path(folder)
        self.locator = f"127.0.0.1:{free_port()}"
        self.stack = contextlib.ExitStack()
        self.servers = []

    def __enter__(self):
        store, log = self.folder / "map", open(self.folder / "locator.log", "wb")
        words = bound(None, [self.run.remora, "locator", "--listen", self.locator, "--store", str(store)])
        process = subprocess.Popen(words, stdout=log, stderr=log)
        self.stack.callback(lambda: (process.kill(), process.wait()))
        for number in range(3):
            self.start(number)
        wait_until("three servers at the locator", lambda: self.ctl("init", "--shards", str(SHARDS), check=False) is not None)
        self.settle()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def start(self, number):
        name = f"cache-{number}"
        flags = ["--shards", str(SHARDS), "--replication", "127.0.0.1:0", "--ack-replicas", "1"]
        flags += ["--locators", self.locator, "--replica-name", name, "--host", f"host-{number}"]
        kind = Kind(name, "remora", (self.run.remora, *flags))
        server = Server(kind, self.folder, self.run.cores, self.run.threads, self.run.memory_mebibytes)
        self.servers.append(self.stack.enter_context(server))
        return server

    def ctl(self, *words, check=True):
        """What it says; None where it is refused and `check` is false."""
        command = [self.run.remora, "ctl", "cluster", "--locators", self.locator, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and check:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return None if done.returncode else done.stdout

    def status(self):
        return json.loads(self.ctl("status", "--json"))

    def is_settled(self, servers):
        status = self.status()
        shards = status["shards"]
        has_part = sum(server["primary"] > 0 for server in status["servers"]) == servers
        return has_part and not (shards["moving"] or shards["without_primary"] or shards["below_acks"])

    def settle(self, seconds=60):
        """Wait until every server has its part; seconds that it took."""
        return wait_until("a settled cluster", lambda: self.is_settled(len(self.servers)), seconds)


def probe(port, seconds_max, stop, pauses):
    """Write each of the keys one at a time; the longest time between two answers about each."""
    selector, longest, last = selectors.DefaultSelector(), [0.0] * PROBED_KEYS, {}
    errors, deadline = 0, time.monotonic() + seconds_max
    value = b"x" * PROBE_BYTES
    for number in range(PROBED_KEYS):
        connection = socket.create_connection(("127.0.0.1", port), timeout=5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = b"set probe-%d 0 0 %d\r\n%s\r\n" % (number, PROBE_BYTES, value)
        selector.register(connection, selectors.EVENT_READ, (number, line))
        connection.sendall(line)
        last[number] = time.monotonic()
    while not stop.is_set() and time.monotonic() < deadline:
        for key, _ in selector.select(timeout=0.1):
            number, line = key.data
            answer, now = key.fileobj.recv(4096), time.monotonic()
            errors += answer != b"STORED\r\n"
            longest[number] = max(longest[number], now - last[number])
            last[number] = now
            key.fileobj.sendall(line)
    now = time.monotonic()
    pauses.put((errors, [max(one, now - last[number]) for number, one in enumerate(longest)]))


@contextlib.contextmanager
def probing(port, seconds_max, into):
    """Beside the block; puts errors and pauses in milliseconds into `into`."""
    stop, pauses = multiprocessing.Event(), multiprocessing.Queue()
    process = multiprocessing.Process(target=probe, args=(port, seconds_max, stop, pauses), daemon=True)
    process.start()
    try:
        yield
        stop.set()
        errors, longest = pauses.get(timeout=30)
        into.update(errors=errors, pauses_ms=sorted(one * 1e3 for one in longest))
    finally:
        process.kill()


def load_words(run, servers, *flags):
    words = [run.remora, "load", "-c", str(run.connections), "-P", "16", "--value-bytes", str(run.value_bytes)]
    for server in servers:
        words += ["-s", f"127.0.0.1:{server.port}"]
    return [*words, "--keys", str(run.keys), "--threads", str(run.load_threads), "--json", "-", *flags]


def fill(run, servers):
    words = load_words(run, servers, "--fill", "--ratio", "1:0", "-n", "1")
    subprocess.run(words, check=True, capture_output=True, timeout=run.wait_seconds)


@contextlib.contextmanager
def loaded(run, servers, into, writes="1:1"):
    """Steady traffic beside the block, whose figures are put into `into`."""
    words = load_words(run, servers, "--ratio", writes, "--rate", str(run.rate), "--seconds", str(run.wait_seconds))
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
        process.send_signal(2)
        said, complaint = process.communicate(timeout=60)
        into.update(json.loads(said)["run"] if process.returncode == 0 else {"error": complaint[-500:]})
    finally:
        let_run(process)
        process.kill()
        process.communicate()


def held_bytes(server):
    """Bytes of the items that a server holds, in all its shards, whichever role it has there."""
    return int(server.stats()["bytes"])


def grow(run, folder):
    """Figures of one growth."""
    figures = {"before": {}, "during": {}}
    with Cluster(run, folder) as cluster:
        fill(run, cluster.servers)
        clients = list(cluster.servers)
        figures["stored_mb"] = sum(map(held_bytes, clients)) / 1e6
        with loaded(run, clients, load := {}):
            for when in ("before", "during"):
                with probing(clients[0].port, run.wait_seconds, figures[when]):
                    if when == "before":
                        time.sleep(STEADY_SECONDS)
                        cluster.start(3)
                        continue
                    begin = time.monotonic()
                    wait_until("adding", lambda: cluster.ctl("add", "cache-3", check=False) is not None)
                    cluster.settle(run.wait_seconds)
                    figures["seconds"] = time.monotonic() - begin
            time.sleep(STEADY_SECONDS)
        figures["load"] = load
        figures["moved_mb"] = held_bytes(cluster.servers[3]) / 1e6
        figures["mb_per_second"] = figures["moved_mb"] / figures["seconds"]
    return figures


def plain_copy(run, folder, megabytes):
    """MB a second of a full copy of about as much, of one server under the same rate of traffic."""
    family, shards = Family((run.remora,), "shm"), ("--shards", str(SHARDS))
    copied = run.smaller(megabytes)
    with Server(family.primary(folder, shards), folder, run.cores, run.threads, run.memory_mebibytes) as primary:
        fill(copied, [primary])
        with loaded(copied, [primary], {}):
            time.sleep(1)
            begin = time.monotonic()
            kind = family.replica(0, primary, folder, shards)
            with Server(kind, folder, run.cores, run.threads, run.memory_mebibytes) as replica:
                lacking = megabytes * 1e6 * LACKING_SHARE
                complete = lambda: (one := family.standing(primary, replica)).follows and one.lag_bytes <= lacking
                wait_until("a full copy", complete, run.wait_seconds)
                seconds = time.monotonic() - begin
                held = held_bytes(replica) / 1e6
    return {"mb": held, "seconds": seconds, "mb_per_second": held / seconds}
