"""What replicas cost their primary: its processor time for each SET, and for each byte that they
took, with 0, 1, 3 and 8 of them.

A window is measured for each number of replicas in turn, in every round, each with servers of its
own, so a ratio is made of two windows of one round. The replicas follow before a window begins and
have everything before the next does.

The primary has one core. Where there are two, the load generator and the replicas share the other.
Then:
- Where replicas take time from the generator, requests come less often together, and the primary
  sleeps and wakes more for each: the generator's doing. So replicas have the lowest priority, and
  how often the primary slept is shown.
- Where two cores are threads of one, each is slower while the other works. So something as busy
  stands in for replicas that are absent: with eight at most, eight less those that are there.
- At the lowest priority eight replicas may not come along: what they had taken at the window's end
  is shown beside. What they cost per byte is made of the bytes that they took, not of those that
  were written.

Then everything rests, and what a replica and its primary use of a core meanwhile is measured as
well.
"""

import statistics
import tempfile
import time

from lib.replication.family import running, standing_in, wait_until
from lib.replication.plots import bars
from lib.replication.told import Held, Table, Told
from lib.report import Figure, progress, quiet
from lib.traffic import in_order, window

NAME = "cost"
TITLE = "What replicas cost their primary"
SCENARIOS = {"unpipelined": ("-P", "1"), "pipelined": ("-P", "32")}
TITLES = {"unpipelined": "one at a time", "pipelined": "32 in flight"}
GOALS = {3: 1.03, 8: 1.05}
REST_GOAL = 0.02
REST_COUNT = 3
MEBIBYTES = 128


def measure(run):
    families = run.families
    rounds = []
    for number in range(run.rounds):
        windows = {}
        for family in in_order(families, number):
            counts = counts_of(run.counts, family)
            of_count = {count: one_count(run, family, count, number + 1) for count in in_order(counts, number)}
            windows[family.name] = {str(count): of_count[count] for count in counts}
            costs = ", ".join(f"{count}: {of_count[count]['pipelined']['cpu_ns_per_request']:,.0f}" for count in counts)
            progress(f"cost, round {number + 1} of {run.rounds}, {family.name}: ns a SET with replicas, 32 in flight: {costs}")
        rounds.append(windows)
    return {"counts": run.counts, "goals_of": [family.name for family in families if family.is_goals], "rounds": rounds}


def counts_of(counts, family):
    """With push one number is enough: there the primary moves the bytes itself, for each
    replica."""
    return counts if family.mode != "push" else [0, rest_count(counts)]


def one_count(run, family, count, seed):
    """Each scenario's window, then, with so many, a rest."""
    figures = {}
    generator = run.generator(connections=50, keys=100_000, value_bytes=100, seconds=run.seconds)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(family, folder, run.cores, MEBIBYTES, count, lowest=run.cores.are_shared) as (primary, replicas),
        standing_in(max(run.counts) - count if run.cores.are_shared else 0, run.cores.replicas) as idlers,
    ):
        generator.fill(primary, 0)
        for name, flags in SCENARIOS.items():
            wait_until("catching up", lambda: family.has_all(primary, replicas))
            taken = lambda: sum(family.standing(primary, replica).bytes for replica in replicas)
            written, before, anew = family.written_bytes(primary), taken(), family.begun_anew(primary, replicas)
            figures[name] = window(primary, run.cores.primary, generator, (*flags, "--ratio", "1:0"), seed)
            figures[name]["replicated_bytes"] = taken() - before
            figures[name]["written_bytes"] = family.written_bytes(primary) - written
            figures[name]["anew"] = family.begun_anew(primary, replicas) - anew
        wait_until("catching up", lambda: family.has_all(primary, replicas))
        if count == rest_count(run.counts):
            for idler in idlers:
                idler.kill()
            figures["rest"] = rest(primary, replicas, run.rest_seconds)
    return figures


def rest_count(counts):
    return REST_COUNT if REST_COUNT in counts else max(counts)


def rest(primary, replicas, seconds):
    """Shares of a core, when nothing is asked: the primary's, and that of the busiest replica."""
    before = [server.cpu_ns() for server in (primary, *replicas)]
    time.sleep(seconds)
    after = [server.cpu_ns() for server in (primary, *replicas)]
    shares = [(later - earlier) / seconds / 1e9 for earlier, later in zip(before, after, strict=True)]
    return {"primary_share": shares[0], "replica_share": max(shares[1:], default=0.0)}


def to_none(rounds, family, scenario, count):
    """The ratio to a primary without replicas, round by round."""
    of = lambda one, number: one[family][str(number)][scenario]["cpu_ns_per_request"]
    return Figure.of([of(one, count) / of(one, 0) for one in rounds])


def per_byte(rounds, family, scenario, count):
    """What the primary spent beyond one without replicas, in ns for each byte that a replica took.
    Below zero is noise, and shown."""
    values = []
    for one in rounds:
        alone, with_them = (one[family][str(number)][scenario] for number in (0, count))
        more_ns = (with_them["cpu_ns_per_request"] - alone["cpu_ns_per_request"]) * with_them["requests"]
        values.append(more_ns / max(1, with_them["replicated_bytes"]))
    return Figure.of(values)


def taken_share(rounds, family, scenario, count):
    """Of what was written in the window, the share that a replica had at its end."""
    windows = [one[family][str(count)][scenario] for one in rounds]
    return Figure.of([one["replicated_bytes"] / count / max(1, one["written_bytes"]) for one in windows])


def rows_of(results, scenario):
    rounds, rows = results["rounds"], []
    for family in rounds[0]:
        for count in map(int, rounds[0][family]):
            windows = [one[family][str(count)][scenario] for one in rounds]
            of = lambda key, windows=windows: Figure.of([one[key] for one in windows])
            compared = [""] * 3
            if count:
                args = (rounds, family, scenario, count)
                compared = [to_none(*args).show(".3f"), per_byte(*args).show(".3f"), taken_share(*args).show(".0%")]
            cost, sleeps = of("cpu_ns_per_request").show(), of("sleeps_per_request").show(".3f")
            rows.append([f"{family}, {count}", cost, *compared, sleeps])
    return rows


def tell(results):
    rounds, told = results["rounds"], Told(TITLE)
    head = ["replicas", "ns a SET", "to none", "ns more a replicated byte", "had at the end", "sleeps a SET"]
    for scenario, title in TITLES.items():
        said = f"Processor time of the primary for a SET, {title}: medians over the rounds (least..greatest)."
        told.tables.append(Table(said, head, rows_of(results, scenario)))
        cost = lambda family, count, key=scenario: Figure.of([one[family][str(count)][key]["cpu_ns_per_request"] for one in rounds])
        groups = [(family, [(f"{count} replicas", cost(family, count)) for count in rounds[0][family]]) for family in rounds[0]]
        told.plots.append(bars(f"Primary's processor time for a SET, {title}", "ns", groups))
    resting = str(rest_count(results["counts"]))
    rows = []
    for family in rounds[0]:
        share = lambda key, family=family: Figure.of([one[family][resting]["rest"][key] for one in rounds])
        rows.append([family, share("primary_share").show(".2%"), share("replica_share").show(".2%")])
        if family in results["goals_of"]:
            told.goals.append(Held("a replica's share of a core at rest", share("replica_share"), REST_GOAL))
    told.tables.append(Table(f"At rest, shares of a core; replicas: {resting}.", ["", "primary", "a replica"], rows))
    for family in results["goals_of"]:
        for count, limit in GOALS.items():
            for scenario in TITLES if count in results["counts"] else ():
                what = f"CPU of a SET, {count} replicas over shm to none, {TITLES[scenario]}"
                told.goals.append(Held(what, to_none(rounds, family, scenario, count), limit))
    others = [one[family][count][name] for one in rounds for family in one for count in one[family] for name in TITLES]
    if anew := sum(one.get("anew", 0) for one in others):
        told.notes.append(f"Replicas that fell behind by more than the primary holds had to begin anew {anew} times: they copied less than was written.")
    busy = statistics.median(one["server_busy_share"] for one in others)
    told.notes.append(f"The primary's core was busy {busy:.0%} of the time in the median window. {quiet(others)}")
    return told
