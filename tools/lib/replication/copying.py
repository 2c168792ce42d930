"""How long a replica takes to a full copy, and what its joining does to the primary's p99 and worst
SET.

The primary is full before. Joined once with nothing else going on, once under full write load: a
closed loop, 16 in flight on each of 50 connections, beside which something as busy as the replica
stands in before it joins. A window before, and one of the same length or longer in which it joins a
quarter in. A prober's single SETs, one every two milliseconds, tell the worst of each moment.

A copy is complete when the replica follows, and what it lacks is at most a hundredth of what there
was. Under load it may never be: then this says so, with how often the replica had to begin anew.
"""

import contextlib
import tempfile
import time

from lib.replication.family import (
    Unable,
    lower,
    running,
    standing_in,
    wait_until,
    without_push,
)
from lib.replication.plots import bars, lines
from lib.replication.stamps import Prober, worst_of_slots
from lib.replication.told import Held, Table, Told, percentiles
from lib.report import Figure, progress
from lib.servers import Server
from lib.traffic import LATENCIES, in_order

NAME = "copy"
TITLE = "A full copy"
LOAD = ("-P", "16", "--ratio", "1:0")
SLOT_SECONDS = 0.05
LACKING_SHARE = 0.01
ITEM_OVERHEAD_BYTES = 60
P99_GOAL, WORST_GOAL_MS = 1.10, 5.0
FITS = 3.5  # times the size: two servers', and what a fork and its buffers may take


def available_mebibytes():
    with open("/proc/meminfo", encoding="ascii") as lines_of:
        return next(int(line.split()[1]) >> 10 for line in lines_of if line.startswith("MemAvailable"))


def measure(run):
    if available_mebibytes() < FITS * run.size_mebibytes:
        raise Unable(f"{available_mebibytes()} MiB are free, this needs {FITS:g} times {run.size_mebibytes}: give a smaller --size")
    families = without_push(run.families)
    rounds = []
    for number in range(run.copy_rounds):
        rounds.append({family.name: one_round(run, family) for family in in_order(families, number)})
        said = ", ".join(f"{name} {show_seconds(one['idle'])}" for name, one in rounds[-1].items())
        progress(f"copy, round {number + 1} of {run.copy_rounds}: seconds, nothing else going on: {said}")
    remora = [family.name for family in families if family.is_remora]
    return {"mebibytes": run.size_mebibytes, "wait_seconds": run.copy_wait, "goals_of": remora, "rounds": rounds}


def show_seconds(one):
    return f"{one['seconds']:.2f}" if one["seconds"] is not None else "never"


def one_round(run, family):
    size = run.size_mebibytes << 20
    keys = size * 8 // 10 // (run.copy_value_bytes + ITEM_OVERHEAD_BYTES)
    generator = run.generator(connections=50, keys=keys, value_bytes=run.copy_value_bytes, seconds=run.copy_seconds)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(family, folder, run.cores, run.size_mebibytes, 0) as (primary, _),
    ):
        generator.fill(primary, size)
        figures = {"idle": join(run, family, primary, folder, size)}
        with standing_in(int(run.cores.are_shared), run.cores.replicas):
            figures["before"] = watched(run, family, primary, generator)
        joining = lambda prober: join(run, family, primary, folder, size, prober)
        figures["during"] = watched(run, family, primary, generator, joining)
    return figures


def join(run, family, primary, folder, size, prober=None):
    """A replica is started; seconds until its copy is complete, None if that took too long. It ends
    with this."""
    joined_at = prober.now() if prober else None
    begin, seconds = time.monotonic(), None
    anew_before = family.begun_anew(primary, [])
    # Another name than the one before has: the primary may still list that.
    with Server(family.replica(int(bool(prober)), primary, folder), folder, run.cores.replicas, 1, run.size_mebibytes) as replica:
        if run.cores.are_shared and prober:
            lower(replica)
        complete = lambda: (one := family.standing(primary, replica)).follows and one.lag_bytes <= size * LACKING_SHARE
        with contextlib.suppress(Unable):
            wait_until("a full copy", complete, run.copy_wait)
            seconds = time.monotonic() - begin
        complete_at = prober.now() if prober and seconds is not None else None
        anew = family.begun_anew(primary, [replica]) - anew_before
        cpu_seconds = replica.cpu_ns() / 1e9
        if prober:
            # The rest of the window belongs to it as well.
            time.sleep(max(0.0, run.copy_seconds - prober.now()))
    return {
        "seconds": seconds,
        "joined_at": joined_at,
        "complete_at": complete_at,
        "anew": anew if family.is_remora else max(0, anew - 1),
        "replica_cpu_seconds": cpu_seconds,
    }


def watched(run, family, primary, generator, act=None):
    """Full write load for a window, `act` a quarter in; what the generator and the prober saw."""
    # A copy may take longer than the window; without one the end is known.
    seconds = None if act else run.copy_seconds
    with generator.begun(primary, LOAD, seconds) as load, Prober(family, primary) as prober:
        acted = {}
        if act:
            time.sleep(run.copy_seconds / 4)
            acted = act(prober)
            time.sleep(max(0.0, run.copy_seconds - prober.now()))
        load_run = load.end() if act else load.figures()
    if prober.trouble:
        raise Unable(f"{family.name}: the prober's connection failed: {prober.trouble}")
    return {
        **acted,
        "length_seconds": load_run["seconds"],
        "requests_per_second": load_run["requests_per_second"],
        **{f"{name}_ms": load_run[f"latency_{name}_us"] / 1e3 for name in LATENCIES},
        "probe": percentiles([milliseconds for _, milliseconds in prober.points]),
        "worst_ms_over_time": worst_of_slots(prober.points, SLOT_SECONDS),
    }


def seconds_of(rounds, family, when):
    """Figure of the copies that were completed, and how many were not."""
    seconds = [one[family][when]["seconds"] for one in rounds]
    done = [one for one in seconds if one is not None]
    return (Figure.of(done) if done else None), len(seconds) - len(done)


def show_copy(results, family, when):
    figure, never = seconds_of(results["rounds"], family, when)
    rate = figure and Figure.of([(results["mebibytes"] << 20) / 1e6 / one for one in (figure.median, figure.least, figure.greatest)])
    missed = f"{never} not within {results['wait_seconds']} s" if never else ""
    shown = ", ".join(filter(None, (figure and figure.show(".2f"), missed)))
    return [shown, f"{rate.median:,.0f}" if rate else ""]


def tell(results):
    rounds, told = results["rounds"], Told(f"{TITLE} of {results['mebibytes']:,} MiB")
    rows = []
    for family in rounds[0]:
        of = lambda when, key, family=family: Figure.of([one[family][when][key] for one in rounds])
        for when, title in (("idle", "nothing else going on"), ("during", "under full write load")):
            cpu, anew = of(when, "replica_cpu_seconds"), of(when, "anew")
            rows.append([f"{family}, {title}", *show_copy(results, family, when), cpu.show(".1f"), anew.show()])
    head = ["", "seconds to a full copy", "MB/s", "replica's CPU, s", "begun anew"]
    told.tables.append(Table("From the start of the replica's process. Medians over the rounds (least..greatest).", head, rows))
    told.tables.append(latencies(rounds))
    for family in rounds[0]:
        told.plots.append(over_time(rounds[-1][family], family))
    worst = lambda family, when: (when, Figure.of([one[family][when]["max_ms"] for one in rounds]))
    told.plots.append(bars("The worst SET under full write load", "ms", [
        (family, [worst(family, "before"), worst(family, "during")]) for family in rounds[0]
    ]))
    for family in results["goals_of"]:
        told.goals += goals(rounds, family)
    told.notes.append("Valkey's limit for a replica that is behind is 2 GB here; its default of 256 MB may be full before a copy under load is complete, which then begins anew.")
    told.notes.append("The window in which a replica joins is as long as the one before, or longer where the copy takes longer; a longer one has more chances of a bad moment.")
    return told


def goals(rounds, family):
    at = lambda when, key: [one[family][when][key] for one in rounds]
    pairs = lambda key: zip(at("before", key), at("during", key), strict=True)
    ratio = Figure.of([during / before for before, during in pairs("p99_ms")])
    more = Figure.of([during - before for before, during in pairs("max_ms")])
    return [
        Held(f"{family}: p99 while a replica joins, to before", ratio, P99_GOAL),
        Held(f"{family}: worst SET while a replica joins, beyond before", more, WORST_GOAL_MS, "ms", form=".2f"),
    ]


def latencies(rounds):
    rows = []
    for family in rounds[0]:
        for when in ("before", "during"):
            of = lambda key, family=family, when=when: Figure.of([one[family][when][key] for one in rounds])
            shown = [of(f"{key}_ms").show(".2f") for key in ("p50", "p99", "max")]
            probe = Figure.of([one[family][when]["probe"]["max"] for one in rounds])
            row = [f"{family}, {when}", of("requests_per_second").show(), *shown, probe.show(".2f"), of("length_seconds").show(".1f")]
            rows.append(row)
    said = "Full write load: SETs, latency in ms, in a window before a replica joins and in the one in which it does."
    return Table(said, ["", "SETs a second", "p50", "p99", "worst", "worst of single SETs", "seconds"], rows)


def over_time(one, family):
    """Worst single SET of every moment, both windows; when the replica joined and when it had
    all."""
    during = one["during"]
    marks = [(during["joined_at"], "joins")]
    if during["complete_at"] is not None:
        marks.append((during["complete_at"], "copy complete"))
    series = [("before", one["before"]["worst_ms_over_time"]), ("while it joins", during["worst_ms_over_time"])]
    return lines(f"{family}: worst single SET of every {SLOT_SECONDS * 1e3:.0f} ms", "ms", series, marks)
