"""What a replica gets out of the fabric, beside what perftest gets out of it: both in one guest, in
turn. And pull beside push."""

import re
from statistics import median

from . import builds
from .guest import GuestFailed
from .image import Image
from .outcome import Outcome
from .perftest import UP_SECONDS, Measuring

ROUNDS = 3
MEBIBYTES = 16
BENCH_SECONDS = 60
THROUGHPUT_GOAL = 0.9  # of ib_read_bw, at least
LAG_GOAL = 2.5  # times ib_read_lat's median, at most
COPY = re.compile(r"^copy .*: (\d+) MB/s pulled and applied, .* READs of (\d+) bytes; none under way for (\S+)%")
LAG = re.compile(r"^lag .* median (\S+) us, p90 (\S+), p99 (\S+),")
SIDES = re.compile(r"^sides .*: (\d+) MB/s elapsed; .* 1 KiB: (\d+) ns at the replica, (\d+) ns at the primary;")
MODES = ("pull", "push")


def bench(machine):
    """throughput and lag of a replica over verbs as ratios to perftest's figures, pull beside push
    (not run unless it is named)"""
    image = Image(machine.kernel)
    built = builds.build("bench", "--no-run", "--locked", "--bench", "replication")
    image.program(builds.lean(built["bench", "replication"]), "test/replication")
    with Measuring(machine, "bench", image) as guest:
        guest.up(UP_SECONDS)
        copies = [copy_round(guest) for _ in range(ROUNDS)]
        lags = [lag_round(guest) for _ in range(ROUNDS)]
        modes = [{mode: mode_round(guest, mode) for mode in MODES} for _ in range(ROUNDS)]
        guest.dismiss(BENCH_SECONDS)
    say("throughput", "of ib_read_bw at the same READ size, one queue pair", copies, f"goal at least {THROUGHPUT_GOAL}")
    say("lag", "times ib_read_lat of 64 bytes, both medians", lags, f"goal at most {LAG_GOAL}")
    for mode in MODES:
        rate, replica_ns, primary_ns, lag_us = (median(figures) for figures in zip(*(one[mode] for one in modes), strict=True))
        print(f"bench: {mode}: a full copy at {rate:.0f} MB/s elapsed, processor time for 1 KiB {replica_ns:,.0f} ns at the replica and "
              f"{primary_ns:,.0f} ns at the primary, lag {lag_us:.0f} us: medians of {ROUNDS} rounds")
    return Outcome(2 + len(MODES), 0)


def say(name, of_what, ratios, goal):
    known = sorted(ratio for ratio in ratios if ratio)
    if not known:
        print(f"bench: {name}: no figures, perftest could not tell the rate of the processor's clock")
        return
    span = f"{known[0]:.2f} to {known[-1]:.2f}, {len(known)} rounds"
    print(f"bench: {name} {median(known):.2f} {of_what} ({span}; {goal})")


def measured(guest, only, pattern, mode="pull"):
    said = guest.ask(f"/test/replication --fabric verbs --listen $REMORA_TEST_VERBS:0 --memory {MEBIBYTES} --rounds 1 "
                     f"--mode {mode} --only {only}", BENCH_SECONDS)
    for line in said:
        if found := pattern.match(line):
            return [float(figure) for figure in found.groups()]
    raise GuestFailed("the benchmark did not end well; it said:\n" + "\n".join(said))


def copy_round(guest):
    rate, size_bytes, idle = measured(guest, "copy", COPY)
    size_bytes = int(size_bytes)
    before = guest.read_bandwidth(size_bytes)
    again, _, idle_again = measured(guest, "copy", COPY)
    rates = [before, again, guest.read_bandwidth(size_bytes)]
    perftest = [figure for figure in (rates[0], rates[2]) if figure]
    ours = (rate + again) / 2
    shown = ", ".join(f"{figure:.1f}" for figure in perftest)
    print(f"bench: copied at {rate:.0f}, {again:.0f} MB/s by READs of {size_bytes} bytes, with none under way for {idle:.1f}, "
          f"{idle_again:.1f}% of the time; ib_read_bw {shown} MB/s", flush=True)
    return ours / (sum(perftest) / len(perftest)) if perftest else None


def lag_round(guest):
    latency = guest.read_latency(64)
    lag, ninetieth, last = measured(guest, "lag", LAG)
    yardstick = f"{latency:.1f} us" if latency else "without a figure"
    print(f"bench: lag {lag:.0f} us (p90 {ninetieth:.0f}, p99 {last:.0f}); ib_read_lat {yardstick}", flush=True)
    return lag / latency if latency else None


def mode_round(guest, mode):
    """MB/s of a full copy; processor time for 1 KiB of it at the replica, and at the primary, in
    ns; the median lag in us."""
    return (*measured(guest, "sides", SIDES, mode), measured(guest, "lag", LAG, mode)[0])
