"""Clients that write to shards while these are handed over, and what they saw.

The clients are benches/writers.rs: one thread, which follows a refusal to the server that it names.
It notes when each write was due and when it was stored, by the clock that this tool reads as well
(CLOCK_MONOTONIC), so windows are chosen afterwards.
"""

import array
import bisect
import contextlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lib.replication.family import Unable
from lib.replication.told import percentile
from lib.servers import WAIT_SECONDS, bound, build, let_run

WORDS_OF_A_WRITE = 5
# Filling and the writes that are under way at the end.
WAIT_SECONDS_MAX = 3 * WAIT_SECONDS


@dataclass(frozen=True, slots=True)
class Written:
    """A write: nanoseconds when it was due and when it was stored, its shard, servers that refused
    it."""

    due: int
    stored: int
    shard: int
    refusals: int

    @property
    def took_ms(self):
        return (self.stored - self.due) / 1e6


@dataclass(frozen=True)
class Window:
    """A stretch of time, in nanoseconds."""

    begin: int
    end: int

    @property
    def milliseconds(self):
        return (self.end - self.begin) / 1e6


def build_writers():
    said = [json.loads(line) for line in build("--bench", "writers", "--message-format", "json").splitlines()]
    return next(one["executable"] for one in said if one.get("target", {}).get("kind") == ["bench"])


@contextlib.contextmanager
def writing(program, cores, servers, folder, flags):
    """Writers at work, once every key was written. Yields a function that ends them and gives what
    they wrote, in the order in which it was stored."""
    path = Path(folder) / "written"
    addresses = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    words = [program, "--servers", addresses, "--into", str(path), *flags]
    pipe = subprocess.PIPE
    process = subprocess.Popen(bound(cores, words), stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def end():
        complaint = process.communicate(timeout=WAIT_SECONDS_MAX)[1]
        if process.returncode:
            raise Unable(f"the writers failed: {complaint.strip()[-500:]}")
        words = array.array("Q", path.read_bytes())
        return [Written(*words[at : at + 4]) for at in range(0, len(words), WORDS_OF_A_WRITE)]

    try:
        if process.stdout.readline() != "ready\n":
            end()
            raise Unable("the writers ended before they had written every key")
        yield end
    finally:
        let_run(process)
        process.kill()
        process.wait()
        for one in (process.stdin, process.stdout, process.stderr):
            one.close()


def longest_gap_ms(written, shard, windows):
    """In each window, the longest time between two writes to the shard that were stored one after
    the other. One that reaches into the window counts whole."""
    stored = [one.stored for one in written if one.shard == shard]
    gaps = []
    for window in windows:
        first = max(1, bisect.bisect_left(stored, window.begin))
        last = min(len(stored) - 1, bisect.bisect_left(stored, window.end))
        if first > last:
            raise Unable(f"nothing was stored in shard {shard} near a hand-over")
        gaps.append(max(stored[at] - stored[at - 1] for at in range(first, last + 1)) / 1e6)
    return gaps


def due_in(written, windows):
    """The writes that were due in any of the windows."""
    by_due = sorted(written, key=lambda one: one.due)
    due = [one.due for one in by_due]
    place = lambda time: bisect.bisect_left(due, time)
    return [one for window in windows for one in by_due[place(window.begin) : place(window.end)]]


def latencies(written):
    """p50, p99 and the greatest in milliseconds, how many there were, and the share of those that a
    server refused."""
    if not written:
        raise Unable("no write was due while shards were handed over: give a higher --rate")
    took = [one.took_ms for one in written]
    refused = sum(one.refusals > 0 for one in written) / len(written)
    return {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99), "max": max(took), "count": len(took), "refused_share": refused}
