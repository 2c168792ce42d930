"""A primary and its replicas, in the words of whoever serves: Remora over a fabric, or Valkey. What
each can do, how far each is.

The primary has a core of its own. The load generator has another; the replicas have those that are
left, and where none are, the generator's. Where a figure would change with the time that replicas
take from the generator, they run at the lowest priority, and something as busy stands in for those
that are absent (see cost.py).
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lib.servers import VALKEY_END, WAIT_SECONDS, Kind, Server, ask, bound

LOWEST_PRIORITY = 19
POLL_SECONDS = 0.005
SECRET = b"for comparisons only"
# A Valkey whose replica is this far behind drops it. Full write load fills the default of 256 MB
# before a large copy is complete.
VALKEY_LIMIT = "replica 2gb 2gb 0"


class Unable(Exception):
    """What cannot be measured here, and why; the rest goes on."""


@cache
def knows(program, command, word):
    """Whether `program command --help` has the word: a section whose feature is missing is
    skipped."""
    said = subprocess.run([program, command, "--help"], capture_output=True, text=True, check=False)
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", said.stdout) is not None


def wait_until(what, is_so, seconds=WAIT_SECONDS):
    """Seconds until it was so."""
    begin = time.monotonic()
    while not is_so():
        if time.monotonic() - begin > seconds:
            raise Unable(f"{what} did not happen within {seconds} s")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - begin


def remora_rows(server, of="replication"):
    with server.connect() as connection:
        lines = ask(connection, f"stats {of}\r\n".encode(), b"END\r\n").decode().split("\r\n")
    return dict(line.split(" ", 2)[1:] for line in lines if line.startswith("STAT "))


def valkey_rows(server):
    with server.connect() as connection:
        said = ask(connection, b"INFO\r\n" + VALKEY_END, b"$3\r\nend\r\n").decode()
    return dict(line.split(":", 1) for line in said.split("\r\n") if ":" in line)


@dataclass(frozen=True)
class Family:
    """Who is measured. `fabric` and `mode` are Remora's; `address` is where it offers its logs."""

    program: tuple
    fabric: str = ""  # Valkey has none
    mode: str = ""  # empty where the binary knows only one
    address: str = "127.0.0.1"

    @property
    def is_remora(self):
        return bool(self.fabric)

    @property
    def name(self):
        return " ".join(filter(None, ("remora", self.fabric, self.mode))) if self.is_remora else "valkey"

    @property
    def is_goals(self):
        """The goals are about Remora over shared memory, the replica reading."""
        return self.fabric == "shm" and self.mode in ("", "pull")

    def kind(self, name, flags):
        family = "remora" if self.is_remora else "valkey"
        return Kind(name, family, (*self.program, *flags))

    def shared_flags(self, folder):
        if not self.is_remora:
            delay = ("--repl-diskless-sync-delay", "0")
            return ("--dir", str(folder), "--client-output-buffer-limit", VALKEY_LIMIT, *delay)
        if self.address == "127.0.0.1":
            return ("--fabric", self.fabric)
        return ("--fabric", self.fabric, "--secret-file", str(secret(folder)))

    def offer_flags(self):
        return ("--replication", f"{self.address}:0") if self.is_remora else ()

    def primary(self, folder, flags=()):
        return self.kind("primary", (*self.offer_flags(), *self.shared_flags(folder), *flags))

    def replica(self, number, primary, folder, flags=()):
        if self.is_remora:
            mode = ("--replication-mode", self.mode) if self.mode else ()
            follow = ("--replica-of", self.offered_at(primary), "--replica-name", f"replica-{number}", *mode)
        else:
            here = f"127.0.0.1 {primary.port}"
            follow = ("--replicaof", here, "--repl-diskless-load", "on-empty-db")
        return self.kind(f"replica-{number}", (*follow, *self.shared_flags(folder), *flags))

    def offered_at(self, server):
        """Where replicas of this server connect."""
        if not self.is_remora:
            return f"127.0.0.1 {server.port}"
        at = lambda: re.search(r"replication on tcp (\S+) ", server.log.read_text(errors="replace"))
        wait_until("the replication port", at)
        return at()[1]

    def written_bytes(self, primary):
        """Bytes of its replication stream since the start."""
        if self.is_remora:
            return int(remora_rows(primary, "")["log_appended_bytes"])
        return int(valkey_rows(primary)["master_repl_offset"])

    def standing(self, primary, replica):
        """Where a replica stands. Of Remora by the primary's account, of Valkey by the replica's:
        those are of this moment."""
        if self.is_remora:
            rows = remora_rows(primary)
            names = [name.removesuffix("name") for name, value in rows.items() if re.fullmatch(r"replica_\d+_name", name) and value == replica.kind.name]
            if not names:
                return Standing(False, 0, 0, 0)
            of = lambda name: rows[names[-1] + name]
            return Standing(of("state") == "following", int(of("pulled_bytes")), int(of("lag_bytes")), int(of("resyncs")))
        written, rows = self.written_bytes(primary), valkey_rows(replica)
        taken = int(rows.get("slave_repl_offset", 0))
        return Standing(rows.get("master_link_status") == "up", taken, max(0, written - taken), 0)

    def begun_anew(self, primary, replicas):
        """Times that replicas had to begin anew; of Valkey: full copies of all replicas that it
        had, the first ones included."""
        if self.is_remora:
            return sum(self.standing(primary, replica).anew for replica in replicas)
        return int(valkey_rows(primary)["sync_full"])

    def has_all(self, primary, replicas):
        """Whether these replicas follow and have all that the primary has."""
        standings = [self.standing(primary, replica) for replica in replicas]
        return all(one.follows and one.lag_bytes == 0 for one in standings)


@dataclass(frozen=True)
class Standing:
    """Of a replica: does it follow, bytes that it took, bytes that it lacks, times that it had to
    begin anew (Valkey does not tell that of one)."""

    follows: bool
    bytes: int
    lag_bytes: int
    anew: int


def secret(folder):
    path = Path(folder) / "secret"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(SECRET)
    return path


@dataclass(frozen=True)
class Cores:
    """Of the primary, of the generator and the probes, and of the replicas."""

    primary: str
    load: str
    replicas: str

    @property
    def are_shared(self):
        return self.load == self.replicas


def families(options):
    """Who is measured, and a line for whoever is not."""
    found, left_out = [], []
    modes = ("pull", "push") if knows(options.remora[0], "serve", "--replication-mode") else ("",)
    for fabric in options.fabrics:
        address = "127.0.0.1"
        if fabric == "verbs":
            address = verbs_address()
            if not address:
                left_out.append(VERBS_MISSING)
                continue
        # Push over TCP does not exist.
        found += [Family(options.remora, fabric, mode, address) for mode in modes if (fabric, mode) != ("tcp", "push")]
    valkey = Family(options.valkey)
    if options.with_valkey and valkey.kind("valkey", ()).is_installed():
        found.append(valkey)
    elif options.with_valkey:
        left_out.append(f"valkey is left out: {options.valkey[0]} is not there (tools/peers valkey-server).")
    if len(modes) == 1:
        left_out.append("push is left out: this remora has no --replication-mode.")
    return found, left_out


VERBS_MISSING = (
    "verbs is left out: it needs an RDMA device here, and the device's address in REMORA_TEST_VERBS. `tools/soft-roce bench` measures throughput and lag "
    "over verbs in a guest with a soft-RoCE device, beside perftest: its figures are of another machine and stand apart."
)


def verbs_address():
    """The address of the RDMA device, as tests are told it."""
    devices = Path("/sys/class/infiniband")
    return os.environ.get("REMORA_TEST_VERBS", "") if devices.is_dir() and any(devices.iterdir()) else ""


def without_push(found):
    """Most of what is measured does not depend on who moves the bytes."""
    return [family for family in found if family.mode != "push"]


def lower(server):
    """All its threads to the lowest priority."""
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        os.setpriority(os.PRIO_PROCESS, int(task.name), LOWEST_PRIORITY)


@contextlib.contextmanager
def standing_in(count, cores):
    """So many processes that do nothing, busily, at the lowest priority."""
    busy = ["nice", "-n", str(LOWEST_PRIORITY), sys.executable, "-c", "while True: pass"]
    idlers = []
    try:
        idlers += [subprocess.Popen(bound(cores, busy)) for _ in range(count)]
        yield idlers
    finally:
        for idler in idlers:
            idler.kill()
            idler.wait()


@contextlib.contextmanager
def running(family, folder, cores, mebibytes, replicas, flags=(), *, lowest=False, replica_flags=()):
    """A primary and so many replicas, which follow. Ends with its `with` block."""
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(Server(family.primary(folder, flags), folder, cores.primary, 1, mebibytes))
        followers = []
        for number in range(replicas):
            kind = family.replica(number, primary, folder, replica_flags)
            followers.append(stack.enter_context(Server(kind, folder, cores.replicas, 1, mebibytes)))
            if lowest:
                lower(followers[-1])
        wait_until(f"following ({family.name})", lambda: family.has_all(primary, followers))
        yield primary, followers


def connect(server):
    """For requests one at a time: nothing waits to be sent together."""
    connection = server.connect()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
