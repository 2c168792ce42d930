"""Two hosts: a primary in one guest, its replica in the other, over verbs with a secret; what is
cut, what loses its power, and how long it takes the other side to know."""

import json

from . import builds
from .guest import GuestFailed
from .image import Image
from .outcome import Outcome
from .pair import ADDRESSES, Pair
from .rows import rows_of, wait_for_rows

CLIENTS = [f"{address}:11211" for address in ADDRESSES]
REPLICATION = f"{ADDRESSES[0]}:7100"
SECRET = "/tmp/secret"
SILENCE_SECONDS = 4  # --replication-timeout
# After that long the other side must be known to be gone: the silence, what a try takes that had
# just begun, and what emulation adds.
NOTICED_SECONDS = SILENCE_SECONDS + 11
BACK_SECONDS = 40  # the longest pause between two tries, a handshake, and all that was missed
ORDER_SECONDS = 60
LOAD_SECONDS = 60
KEYS = 4000
LOOK_SECONDS = 0.2
REGISTRATIONS = "rdma resource show mr"  # by the kernel's account, of all processes


def hosts(machine):
    """primary and replica in two guests: load, the network cut and healed, power failures of the
    one and the other"""
    built = builds.test_binaries(["processes"])
    image = Image(machine.kernel)
    image.program(builds.lean(built["bin", "remora"]), "usr/bin/remora")
    image.program(builds.lean(built["test", "processes"]), "test/processes")
    image.text(SECRET.lstrip("/"), "one that both guests have", 0o600)
    with Pair(machine, "hosts", image) as both:
        checks = Hosts(both)
        steps = (checks.follow, checks.cut_and_heal, checks.replica_fails, checks.replica_joins_again,
                 checks.primary_fails)
        for done, step in enumerate(steps):
            try:
                print(f"hosts: {step()}", flush=True)
            except GuestFailed as failure:
                print(f"hosts: {step.__name__}: {failure}{checks.logs()}", flush=True)
                return Outcome(done + 1, 1)
    return Outcome(len(steps), 0)


class Hosts:
    """The steps, each of which needs the one before; what a step says is what it has found."""

    def __init__(self, both):
        self.both = both

    @property
    def primary(self):
        return self.both.guests[0]

    @property
    def replica(self):
        return self.both.guests[1]

    def start(self, number, flags):
        common = f"-l {CLIENTS[number]} -t 1 --no-pin --fabric verbs --secret-file {SECRET}"
        timeout = f"--replication-timeout {SILENCE_SECONDS}"
        self.both.guests[number].order(
            f"remora serve {common} {timeout} {flags} >/tmp/server.log 2>&1 </dev/null & server=$!", ORDER_SECONDS)

    def rows(self, number):
        return rows_of(self.both.guests[number], CLIENTS[number])

    def until(self, number, what, seconds, **expected):
        """Wait until rows of a server are as expected; the rows, and how long it took."""
        return wait_for_rows(self.both.guests[number], CLIENTS[number], what, seconds, LOOK_SECONDS,
                             lambda rows: all(rows.get(name) == value for name, value in expected.items()))

    def load(self, commands, flags=""):
        """Load on the primary, checked, from the primary's guest: the replica's is not to
        matter."""
        self.primary.order(f"remora load -s {CLIENTS[0]} -c 2 -P 8 --keys {KEYS} --value-bytes 16-8000 --ratio 1:1 "
                           f"-n {commands} {flags} >/tmp/load.log 2>&1 </dev/null || {{ cat /tmp/load.log; false; }}",
                           LOAD_SECONDS)

    def equal(self):
        """The replica has everything, and it is the same; how many keys."""
        self.until(0, "the primary knows that the replica has everything", BACK_SECONDS,
                   replicas="1", replica_0_state="following", replica_0_lag_bytes="0")
        rows, _ = self.until(1, "the replica has everything", BACK_SECONDS, state="following", lag_bytes="0")
        if rows["bad_records"] != "0" or not rows["fabric"].startswith("verbs "):
            raise self.replica.failed(f"no replica as it should be: {rows}")
        said = self.replica.ask(f"REMORA_TEST_COMPARE='{' '.join(CLIENTS)} {KEYS}' /test/processes --ignored --exact "
                                "replicas::two_servers_have_the_same --nocapture", ORDER_SECONDS)
        found = [line for line in said if "keys are the same on both" in line]
        if not found or not any(line.startswith("test result: ok. 1 passed") for line in said):
            raise self.replica.failed("primary and replica are not the same")
        return rows, found[0].split("... ")[-1]

    def follow(self):
        self.start(0, f"-m 8 --replication {REPLICATION}")
        self.until(0, "the primary serves", ORDER_SECONDS, role="primary")
        self.start(1, f"--replica-of {REPLICATION}")
        self.until(1, "the replica follows", BACK_SECONDS, state="following")
        self.load(2000, "--verify")
        _, same = self.equal()
        return f"load on the primary with a replica on another host: {same}"

    def cut_and_heal(self):
        before = self.rows(1)
        self.both.cut()
        _, primary_took = self.until(0, "the primary lets go of a replica behind a cut network", NOTICED_SECONDS,
                                     replicas="0")
        _, replica_took = self.until(1, "the replica notices that the network is cut", NOTICED_SECONDS,
                                     state="connecting")
        self.load(200)  # less than a ring
        self.both.heal()
        _, back_took = self.until(1, "the replica comes back by itself", BACK_SECONDS, state="following")
        rows, same = self.equal()
        changed = {name: int(rows[name]) - int(before[name]) for name in
                   ("shards_continued", "shards_joined", "shards_overrun", "shards_diverged")}
        if changed["shards_continued"] == 0 or sum(changed.values()) != changed["shards_continued"]:
            raise self.replica.failed(f"the replica did not go on from where it was: {changed}")
        return (f"network cut: the primary knew after {primary_took:.1f} s, the replica {replica_took:.1f} s later; "
                f"healed: back after {back_took:.1f} s, {changed['shards_continued']} shards continued, {same}")

    def replica_fails(self):
        before = set(self.primary.ask(REGISTRATIONS, ORDER_SECONDS))
        self.both.fail_power()
        _, took = self.until(0, "the primary lets go of a replica without power", NOTICED_SECONDS, replicas="0")
        # The cache stays registered, for all replicas; what was the replica's own, its ack slot,
        # does not.
        left = set(self.primary.ask(REGISTRATIONS, ORDER_SECONDS))
        if not left < before:
            raise self.primary.failed(f"registrations are left: {left} of {before}")
        self.load(500)
        return f"power failure of the replica: after {took:.1f} s nothing of it was registered at the primary; it goes on"

    def replica_joins_again(self):
        self.both.boot_again()
        self.start(1, f"--replica-of {REPLICATION}")
        self.until(1, "the replica follows again", BACK_SECONDS, state="following")
        _, same = self.equal()
        return f"the replica, started from nothing: {same}"

    def primary_fails(self):
        self.both.fail_power(0)
        _, took = self.until(1, "the replica notices that the primary is without power", NOTICED_SECONDS,
                             state="connecting")
        said = self.replica.ask(f"remora load -s {CLIENTS[1]} -c 1 -P 8 --keys {KEYS} --ratio 0:1 -n 1000 --json - "
                                "2>/dev/null </dev/null", LOAD_SECONDS)
        hits = json.loads("\n".join(said))["run"]["hits"]
        if not hits:
            raise self.replica.failed("the replica without a primary has nothing any more")
        return f"power failure of the primary: the replica noticed after {took:.1f} s, and serves: {hits} hits of 1000"

    def logs(self):
        """What the servers that can still be asked said last."""
        text = ""
        for guest in self.both.guests:
            try:
                text += "".join(f"\n    server of {guest.name}: {line}"
                                for line in guest.ask("tail -n 8 /tmp/server.log", ORDER_SECONDS))
            except GuestFailed:
                text += f"\n    {guest.name} cannot be asked"
        return text
