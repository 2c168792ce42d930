"""The primary's core at its limit: does a replica keep up, how far behind is it, what does it cost
the primary's throughput?

A closed loop of SETs, 32 in flight on each of 50 connections, first without a replica (something as
busy stands in where cores are shared), then with one, at the lowest priority there: or the
generator would not keep the primary at its limit. How busy the primary was stands beside. Meanwhile
the replica's backlog is read, every 50 ms; then stamps are sent. A stamp waits in the primary's
queue like every write, so the same at the primary itself is shown as well. When the load ends, the
time until the replica has everything.
"""

import tempfile
import time

from lib.replication.family import running, standing_in, wait_until, without_push
from lib.replication.plots import bars, lines
from lib.replication.stamps import stamps
from lib.replication.told import Table, Told, percentile, percentiles
from lib.report import Figure, progress
from lib.traffic import in_order, window

NAME = "saturated"
TITLE = "The primary's core at its limit"
LOAD = ("-P", "32", "--ratio", "1:0")
SAMPLE_SECONDS = 0.05
STAMP_EVERY_SECONDS = 0.002
STAMPS = 40


def measure(run):
    families = without_push(run.families)
    rounds = []
    for number in range(run.rounds):
        rounds.append({family.name: one_round(run, family, number + 1) for family in in_order(families, number)})
        said = ", ".join(f"{name} {one['with']['requests_per_second'] / one['alone']['requests_per_second']:.2f}" for name, one in rounds[-1].items())
        progress(f"saturated, round {number + 1} of {run.rounds}: throughput with a replica to without: {said}")
    return {"rounds": rounds}


def one_round(run, family, seed):
    generator = run.generator(connections=50, keys=100_000, value_bytes=100, seconds=run.seconds)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(family, folder, run.cores, run.saturated_mebibytes, 0) as (primary, _),
        standing_in(int(run.cores.are_shared), run.cores.replicas),
    ):
        generator.fill(primary, run.saturated_mebibytes << 20)
        alone = window(primary, run.cores.primary, generator, LOAD, seed)
    with tempfile.TemporaryDirectory() as folder, running(
        family, folder, run.cores, run.saturated_mebibytes, 1, lowest=run.cores.are_shared
    ) as (primary, replicas):
        generator.fill(primary, run.saturated_mebibytes << 20)
        wait_until("catching up", lambda: family.has_all(primary, replicas))
        return {"alone": alone, "with": loaded(run, family, primary, replicas[0], generator)}


def loaded(run, family, primary, replica, generator):
    taken, written, spent = family.standing(primary, replica).bytes, family.written_bytes(primary), primary.cpu_ns()
    again, begin = family.begun_anew(primary, [replica]), time.monotonic()
    with generator.begun(primary, LOAD) as load:
        backlog = sampled(family, primary, replica, run.seconds)
        here, behind = family.written_bytes(primary), family.standing(primary, replica).bytes
        busy = (primary.cpu_ns() - spent) / (time.monotonic() - begin) / 1e9
        at_replica, missing = stamps(family, primary, replica, STAMPS, STAMP_EVERY_SECONDS)
        at_primary, _ = stamps(family, primary, primary, STAMPS, STAMP_EVERY_SECONDS)
        figures = load.end()
    caught_up = wait_until("catching up", lambda: family.has_all(primary, [replica]))
    return {
        "requests_per_second": figures["requests_per_second"],
        "server_busy_share": busy,
        "written_bytes": here - written,
        "taken_bytes": behind - taken,
        "backlog": backlog,
        "catch_up_seconds": caught_up,
        "anew": family.begun_anew(primary, [replica]) - again,
        "stamps_us": percentiles(at_replica) if at_replica else None,
        "stamps_missing": missing,
        "stamps_sent": len(at_replica) + missing,
        "at_primary_us": percentiles(at_primary),
    }


def sampled(family, primary, replica, seconds):
    """Seconds and bytes behind, every so often. A replica that does not follow at the moment has no
    such number."""
    samples, begin = [], time.monotonic()
    while (now := time.monotonic() - begin) < seconds:
        standing = family.standing(primary, replica)
        if standing.follows:
            samples.append((now, standing.lag_bytes))
        time.sleep(SAMPLE_SECONDS)
    return samples


def kept(one):
    """The share of what was written that the replica took meanwhile."""
    return one["taken_bytes"] / max(1, one["written_bytes"])


def tell(results):
    rounds, told = results["rounds"], Told(TITLE)
    rows, stamped, drawn, backlog = [], [], [], []
    for family in rounds[0]:
        both = [one[family] for one in rounds]
        with_it = [one["with"] for one in both]
        figure = lambda of, ones=with_it: Figure.of([of(one) for one in ones])
        rates = {when: Figure.of([one[when]["requests_per_second"] for one in both]) for when in ("alone", "with")}
        ratio = Figure.of([one["with"]["requests_per_second"] / one["alone"]["requests_per_second"] for one in both])
        behind = figure(lambda one: percentile([lag for _, lag in one["backlog"]] or [0], 0.5) / (1 << 20))
        busy = figure(lambda one: one["server_busy_share"])
        rows.append([
            family, rates["alone"].show(), rates["with"].show(), ratio.show(".3f"), f"{busy.median:.0%}", figure(kept).show(".0%"),
            behind.show(".2f"), figure(lambda one: one["catch_up_seconds"]).show(".2f"), figure(lambda one: one["anew"]).show(),
        ])
        seen = [one["stamps_us"] for one in with_it if one["stamps_us"]]
        shown = [Figure.of([one[key] / 1e3 for one in seen]).show(".2f") if seen else "none seen" for key in ("p50", "p99", "max")]
        own = figure(lambda one: one["at_primary_us"]["p50"] / 1e3).show(".2f")
        unseen, sent = (sum(one[key] for one in with_it) for key in ("stamps_missing", "stamps_sent"))
        stamped.append([family, *shown, own, f"{unseen} of {sent}"])
        drawn.append((family, [("no replica", rates["alone"]), ("one replica", rates["with"])]))
        backlog.append((family, [(seconds, lag / (1 << 20)) for seconds, lag in with_it[-1]["backlog"]]))
    head = ["", "SETs/s alone", "with a replica", "ratio", "primary busy", "kept up", "MiB behind", "s to catch up", "begun anew"]
    told.tables.append(Table("Medians over the rounds (least..greatest).", head, rows))
    head = ["", "p50", "p99", "max", "p50 at the primary itself", "not seen"]
    told.tables.append(Table("Milliseconds from a stamp's write to its sight, the write's wait in the primary's queue included.", head, stamped))
    told.plots.append(bars("SETs a second", "", drawn))
    if any(points for _, points in backlog):
        told.plots.append(lines("Behind, over time (last round)", "MiB", [one for one in backlog if one[1]], []))
    return told
