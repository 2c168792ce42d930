"""One worker against two: what a request costs when workers share a store, and what was counted
that explains it.

The generator may have to share cores with the workers, so the time on the clock says nothing here:
processor time does. Hardware events are counted with perf, in windows of their own, where the
machine has them.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lib.peers import SCENARIOS
from lib.report import figures_of, progress, quiet, ratios, section, show_ratio
from lib.servers import WAIT_SECONDS, Server, bound
from lib.traffic import in_order, window

ONE, TWO = "1 worker", "2 workers"
WORKERS = {ONE: 1, TWO: 2}
NAMES = ("unpipelined", "pipelined", "sets")
STATS = ("polls", "lock_waits", "park_waits")
HARDWARE = ("instructions", "cycles", "cache-references", "cache-misses", "branch-misses")
SOFTWARE = ("context-switches", "cpu-migrations", "page-faults")
ATTACH_SECONDS = 0.3
COLUMNS = {
    "polls": "polls a request",
    "voluntary": "sleeps a request",
    "instructions": "instructions a request",
    "cycles": "cycles a request",
    "cache-misses": "cache misses a request",
}
COLUMNS_IN_A_MILLION = {
    "involuntary": "preempted, in a million",
    "lock_waits": "lock waits, in a million",
    "page-faults": "page faults, in a million",
}


def measure(options):
    """All rounds: in each, every scenario with one worker and with two."""
    rounds = []
    for number in range(options.rounds):
        windows = {name: {} for name in NAMES}
        for workers in in_order([ONE, TWO], number):
            for name, figures in one_server(options, number, WORKERS[workers]).items():
                windows[name][workers] = figures
                cost = f"{figures['cpu_ns_per_request']:,.0f} ns a request"
                progress(f"round {number + 1} of {options.rounds}, {workers}, {name}: {cost}")
        rounds.append(windows)
    return {"rounds": rounds}


def one_server(options, number, workers):
    """Every scenario with a server of so many workers, on as many cores."""
    cores, generator, measured = options.worker_cores[workers], options.generator, {}
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(options.kinds[0], folder, cores, workers, options.mebibytes) as server,
    ):
        generator.fill(server, options.fill_bytes)
        for name in NAMES:
            flags = SCENARIOS[name].flags
            before = counters(server)
            figures = window(server, cores, generator, flags, number + 1)
            counted = {key: (after - before[key]) / figures["requests"] for key, after in counters(server).items()}
            events = perf(server, folder, lambda flags=flags: generator.run(server, flags, number + 1)["requests"])
            measured[name] = {**figures, **counted, **events}
    return measured


def counters(server):
    stats = server.stats()
    return {**{key: int(stats[key]) for key in STATS}, **server.context_switches()}


def perf(server, folder, work):
    """Events for each request of `work`, those that this machine can count."""
    if not shutil.which("perf"):
        return {}
    counts, events = Path(folder) / "events.csv", ",".join((*HARDWARE, *SOFTWARE))
    words = f"perf stat -x , -e {events} -p {server.process.pid} -o".split()
    counting = subprocess.Popen(bound("", [*words, str(counts)]), stderr=subprocess.PIPE, text=True)
    time.sleep(ATTACH_SECONDS)
    requests = work()
    counting.send_signal(signal.SIGINT)
    complaint = counting.communicate(timeout=WAIT_SECONDS)[1]
    if not counts.exists():
        sys.exit(f"{' '.join(words)} counted nothing: {complaint}; see kernel.perf_event_paranoid, or run it as root")
    rows = [line.split(",") for line in counts.read_text().splitlines() if line.count(",") > 2]
    return {row[2].partition(":")[0]: int(row[0]) / requests for row in rows if row[0].isdigit()}


def summarize(results):
    """Medians and spreads, and what a second worker adds."""
    rounds = results["rounds"]
    named = {name: [one[name] for one in rounds] for name in NAMES}
    more = {name: {ONE: ratios(windows, TWO, ONE, "cpu_ns_per_request")} for name, windows in named.items()}
    return {"figures": {name: figures_of(windows) for name, windows in named.items()}, "ratios": more, "goals": []}


def render(_options, results, summary):
    """The table."""
    counted = {key for each in summary["figures"].values() for figures in each.values() for key in figures}
    plain = {key: head for key, head in COLUMNS.items() if key in counted}
    rare = {key: head for key, head in COLUMNS_IN_A_MILLION.items() if key in counted}
    rows = []
    for name in NAMES:
        for workers in WORKERS:
            figures = summary["figures"][name][workers]
            ratio = show_ratio(summary, name, ONE) if workers != ONE else ""
            cells = [figures[key].show(",.3f") for key in plain] + [figures[key].show(",.0f", 1e-6) for key in rare]
            title = f"{SCENARIOS[name].title}: {workers}"
            rows.append([title, figures["cpu_ns_per_request"].show(), ratio, *cells])
    said = "Processor time of remora for each request, and what was counted: medians over the rounds (least..greatest)."
    parts = section(said, ["", "ns a request", "to 1 worker", *plain.values(), *rare.values()], rows)
    if not counted & set(HARDWARE):
        why = "the machine has none to count" if counted & set(SOFTWARE) else "perf is not installed"
        parts += [f"No hardware events: {why}.", ""]
    every = [one for windows in results["rounds"] for each in windows.values() for one in each.values()]
    return "\n".join([*parts, quiet(every)])
