"""The slowest thousandth of answers while the index grows and memory is reclaimed: remora and
memcached.

Every run begins with an empty server and with more keys than fit, so first the index grows, then
every set evicts. The load is open: requests are due at even intervals, the same for all, and
latency counts from when each was due. The bare echo shows what of it is the machine's and the
generator's own.
"""

import sys
import tempfile

from lib.report import (
    LATENCY_HEAD,
    Goal,
    against_peers,
    behind,
    figures_of,
    latency_row,
    progress,
    quiet,
    section,
    show_ratio,
    verdicts,
)
from lib.servers import Server
from lib.traffic import in_order, window

FLAGS = ("--ratio", "1:1")
RATE_SHARE = 0.6
TAIL = "tail"
GOAL = Goal(TAIL, "memcached", 1.0)
COUNTS = ("curr_items", "evictions", "index_buckets", "log_reinserted_items", "park_waits", "hash_power_level")


def measure(options):
    """The rate, from what both can do; then all rounds at this rate."""
    rate = options.rate
    if not rate:
        closed = [one_run(options, kind, FLAGS, 0) for kind in options.kinds if kind.keeps_items]
        rate = int(RATE_SHARE * min(one["requests_per_second"] for one in closed))
    rounds = []
    for number in range(options.rounds):
        flags = (*FLAGS, "--rate", str(rate))
        windows = {kind.name: one_run(options, kind, flags, number + 1) for kind in in_order(options.kinds, number)}
        require_evictions(windows)
        rounds.append(windows)
        slowest = ", ".join(f"{name} {one['p99_9_us'] / 1000:.2f}" for name, one in windows.items())
        progress(f"round {number + 1} of {options.rounds}: p99.9 in ms: {slowest}")
    return {"rate": rate, "rounds": rounds}


def one_run(options, kind, flags, seed):
    """One window with a server that is empty at its beginning."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(kind, folder, options.server_core, mebibytes=options.mebibytes) as server,
    ):
        figures = window(server, options.server_core, options.generator, flags, seed)
        counted = server.stats() if kind.keeps_items else {}
    return {**figures, **{name: int(counted[name]) for name in COUNTS if name in counted}}


def require_evictions(windows):
    """Growth alone is not what this is about."""
    for name, figures in windows.items():
        if figures.get("evictions") == 0:
            share = "it held {curr_items:,} items of {sets:,} sets".format(**figures)
            sys.exit(f"{name} evicted nothing ({share}): give more --seconds, or less -m")


def summarize(results):
    """Medians and spreads, and the ratio of the slowest thousandths."""
    rounds = results["rounds"]
    against = {TAIL: against_peers(rounds, "p99_9_us")}
    return {"figures": {TAIL: figures_of(rounds)}, "ratios": against, "goals": verdicts([GOAL], against)}


def render(options, results, summary):
    """The tables."""
    figures = summary["figures"][TAIL]
    names = [kind.name for kind in options.kinds]
    count = lambda one, key: one[key].show() if key in one else ""
    counts = lambda name: [count(figures[name], key) for key in COUNTS[:2]]
    rows = [[*latency_row(name, figures[name]), show_ratio(summary, TAIL, name), *counts(name)] for name in names]
    said = (
        f"Latency in ms at {results['rate']:,} requests a second, 1 set to 1 get of {options.generator.keys:,} keys at "
        f"-m {options.mebibytes}, from an empty server on: the median over the rounds (least..greatest)."
    )
    head = [*LATENCY_HEAD, "remora's p99.9 to it", "items at the end", "evicted"]
    parts = [*section(said, head, rows), *behind(figures)]
    if "remora" in figures:
        more = ", ".join(f"{key} {figures['remora'][key].show()}" for key in COUNTS[2:] if key in figures["remora"])
        parts += [f"remora counted: {more}.", ""]
    return "\n".join([*parts, quiet([one for windows in results["rounds"] for one in windows.values()])])
