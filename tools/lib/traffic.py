"""Traffic, and what it costs the server: `remora load` on other cores, processor time before and
after."""

import contextlib
import json
import signal
import subprocess
import sys
from dataclasses import dataclass

from lib.machine import busy_ns, numbers
from lib.servers import bound, let_run

ATTEMPTS_MAX = 3
LATENCIES = ("p50", "p99", "p99_9", "max")


class LoadFailed(Exception):
    """The generator ended with an error; its words."""


@dataclass(frozen=True)
class Scenario:
    """What is asked: `flags` are those of `remora load`."""

    title: str
    flags: tuple


@dataclass(frozen=True)
class Generator:
    """`remora load`, as all servers of a run meet it.
    `end` says when a window is over, in flags of `remora load`."""

    program: str
    cores: str
    connections: int
    keys: int
    value_bytes: int
    end: tuple
    seconds_max: int

    def fill(self, server, least_bytes):
        """Write every key once, then keys at random until there were so many bytes."""
        writes = max(1, least_bytes // self.value_bytes - self.keys)
        self._run(server, ("--fill", "-P", "32", "--ratio", "1:0", "-n", str(writes)))

    def run(self, server, flags, seed):
        """The figures of a window, as `remora load` gives them."""
        return self._run(server, (*flags, *self.end, "--seed", str(seed)))

    @contextlib.contextmanager
    def begun(self, server, flags, seconds=None):
        """Traffic that goes on beside something else, for so many seconds or until
        `end` of what is given, at most for the `with` block."""
        words = self._words(server, (*flags, "--seconds", str(seconds or self.seconds_max)))
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            yield Begun(process, server.kind.name, self.seconds_max)
        finally:
            let_run(process)
            process.kill()
            process.communicate()

    def _words(self, server, flags):
        settings = ["-s", f"127.0.0.1:{server.port}", "--protocol", server.kind.protocol, "-c", str(self.connections)]
        settings += ["--tls-ca", server.kind.certificate] if server.kind.certificate else []
        values = ["--keys", str(self.keys), "--value-bytes", str(self.value_bytes), "--json", "-"]
        threads = ["--threads", str(len(numbers(self.cores)))]
        return bound(self.cores, [self.program, "load", *settings, *values, *threads, *flags])

    def _run(self, server, flags):
        words = self._words(server, flags)
        done = subprocess.run(words, capture_output=True, text=True, timeout=self.seconds_max, check=False)
        if done.returncode:
            raise LoadFailed(f"{server.kind.name}: {' '.join(words)} failed: {done.stderr[-2000:]}")
        return json.loads(done.stdout)["run"]


@dataclass(frozen=True)
class Begun:
    """A generator at work."""

    process: subprocess.Popen
    name: str
    seconds_max: int

    def end(self):
        """Ask it to stop; its figures."""
        let_run(self.process)
        self.process.send_signal(signal.SIGINT)
        return self.figures()

    def figures(self):
        """Wait for its end; its figures."""
        said, complaint = self.process.communicate(timeout=self.seconds_max)
        if self.process.returncode:
            raise LoadFailed(f"{self.name}: the generator failed: {complaint[-2000:]}")
        return json.loads(said)["run"]


def in_order(kinds, number):
    """The order of servers in a round: it moves on by one each round."""
    shift = number % len(kinds)
    return [*kinds[shift:], *kinds[:shift]]


def window(server, cores, generator, flags, seed):
    """One run against a server that is bound to `cores`: what it did, and what each request cost.

    The connections' coming and going counts as well; for 50 of them and some ten thousand requests
    it does not show.
    """
    every = {*numbers(cores), *numbers(generator.cores)}
    look = lambda: (server.cpu_ns(), *server.ticks(), server.context_switches()["voluntary"], *busy_ns(every))
    for attempt in range(ATTEMPTS_MAX):
        before = look()
        try:
            run = generator.run(server, flags, seed)
            break
        except LoadFailed as failure:
            # A virtual machine may stand still for longer than the generator waits; what was
            # measured then does not count.
            print(failure, file=sys.stderr, flush=True)
            if attempt == ATTEMPTS_MAX - 1:
                raise
    cpu, user, system, sleeps, busy, stolen = (later - earlier for earlier, later in zip(before, look(), strict=True))
    wall_ns = run["seconds"] * 1e9
    load = (run["load_cpu_ns_per_command"] or 0) * run["commands"]
    return {
        "cpu_ns_per_request": cpu / run["requests"],
        "user_ns_per_request": cpu / run["requests"] * user / max(1, user + system),
        "sleeps_per_request": sleeps / run["requests"],
        "requests_per_second": run["requests_per_second"],
        "server_busy_share": cpu / wall_ns / len(numbers(cores)),
        "others_busy_share": max(0.0, busy - stolen - cpu - load) / wall_ns / len(every),
        "stolen_share": stolen / wall_ns / len(every),
        **{f"{name}_us": run[f"latency_{name}_us"] for name in LATENCIES},
        **{
            name: run[name]
            for name in ("requests", "gets", "sets", "hits", "misses", "unsent", "load_cpu_ns_per_command", "tls")
        },
    }


def require_hits(server, figures):
    """A server that lost the keys that it was filled with does less than the others."""
    if server.kind.keeps_items and figures["misses"] > figures["gets"] // 1000:
        sys.exit(
            f"{server.kind.name} missed {figures['misses']} of {figures['gets']} gets: give more -m, or fewer --keys"
        )
