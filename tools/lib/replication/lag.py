"""How late a replica is: stamps in values written to the primary, read at the replica until they
show up; see stamps.py.

At a trickle (a stamp every few milliseconds and nothing else), one right after the other, and
beside paced writes. The same at the primary itself is the floor: the two requests' ways and the
probe's own time. `benches/replication.rs` measures below that floor, in one process.

Where the probe, the generator and the replica share one core, the figures under load are theirs as
well.
"""

import tempfile

from lib.replication.family import Unable, running
from lib.replication.plots import spans
from lib.replication.stamps import stamps
from lib.replication.told import Table, Told, percentiles
from lib.report import Figure, progress
from lib.traffic import in_order

NAME = "lag"
TITLE = "How late a replica is"
MEBIBYTES = 128
# A replica that finds nothing new pauses longer and longer, up to --replica-poll.
TRICKLE_SECONDS = 0.004
LOAD = ("-P", "8", "--ratio", "1:0")
STATES = ("at a trickle", "one after the other", "under load")


def measure(run):
    rounds = []
    for number in range(run.rounds):
        rounds.append({family.name: one_round(run, family) for family in in_order(run.families, number)})
        said = ", ".join(f"{name} {one[STATES[0]]['replica']['p50']:,.0f}" for name, one in rounds[-1].items())
        progress(f"lag, round {number + 1} of {run.rounds}: median at a trickle, us: {said}")
    return {"stamps": run.stamps, "rate": run.lag_rate, "rounds": rounds}


def one_round(run, family):
    generator = run.generator(connections=10, keys=100_000, value_bytes=100, seconds=run.seconds)
    with tempfile.TemporaryDirectory() as folder, running(family, folder, run.cores, MEBIBYTES, 1) as (primary, replicas):
        figures = {state: lags(family, primary, replicas[0], run.stamps, pause) for state, pause in zip(STATES[:2], (TRICKLE_SECONDS, 0), strict=True)}
        with generator.begun(primary, (*LOAD, "--rate", str(run.lag_rate))) as load:
            figures[STATES[2]] = lags(family, primary, replicas[0], run.stamps, TRICKLE_SECONDS)
            figures[STATES[2]]["load"] = load.end()
    return figures


def lags(family, primary, replica, count, every_seconds):
    """Percentiles in us at the replica, and at the primary itself; `over` is what the replica adds
    to the median."""
    figures = {}
    for name, reader in (("replica", replica), ("primary", primary)):
        late_us, missing = stamps(family, primary, reader, count, every_seconds)
        if not late_us:
            raise Unable(f"{family.name}: not one of {count} stamps was seen at the {name}")
        figures[name] = {**percentiles(late_us), "missing": missing}
    return {**figures, "over_us": figures["replica"]["p50"] - figures["primary"]["p50"]}


def tell(results):
    rounds, told = results["rounds"], Told(TITLE)
    for state in STATES:
        rows, drawn = [], []
        for family in rounds[0]:
            of = lambda who, key, family=family, state=state: Figure.of([one[family][state][who][key] for one in rounds])
            over = Figure.of([one[family][state]["over_us"] for one in rounds])
            shown = [of("replica", key).show() for key in ("p50", "p99", "max")]
            rows.append([family, *shown, of("primary", "p50").show(), over.show(), of("replica", "missing").show()])
            drawn.append((family, {key: of("replica", key).median for key in ("p50", "p99", "max")}))
            drawn.append((f"{family}: at the primary itself", {key: of("primary", key).median for key in ("p50", "p99", "max")}))
        beside = f" (beside {results['rate']:,} SETs a second)" if state == STATES[2] else ""
        said = f"Microseconds from a stamp's write to its sight at the replica, {state}{beside}: medians over the rounds (least..greatest)."
        head = ["", "p50", "p99", "max", "p50 at the primary itself", "p50 over that", "not seen"]
        told.tables.append(Table(said, head, rows))
        told.plots.append(spans(f"Stamp to sight, {state}", "us", drawn))
    return told
