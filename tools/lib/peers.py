"""remora beside memcached, Valkey and the bare echo: each alone on one core, the same traffic, in
interleaved rounds.

In every round all servers are started anew, so that chance deals out their memory anew, and their
memory is written over once, so that no page of it is touched for the first time in a window. All
but one are held by SIGSTOP.
"""

import tempfile
from contextlib import ExitStack

from lib.memory import weigh
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
from lib.traffic import Scenario, in_order, require_hits, window

LATENCY, MEMORY = "latency", "memory"
SCENARIOS = {
    "unpipelined": Scenario("1 set to 9 gets, one at a time", ("--ratio", "1:9")),
    "pipelined": Scenario("1 set to 9 gets, 32 in flight", ("--ratio", "1:9", "-P", "32")),
    "sets": Scenario("sets, 32 in flight", ("--ratio", "1:0", "-P", "32")),
    "multiget": Scenario("gets of 50 keys, for each key", ("--ratio", "0:1", "--multi-get", "50")),
    "gets": Scenario("gets, 32 in flight", ("--ratio", "0:1", "-P", "32")),
    LATENCY: Scenario("1 set to 9 gets", ("--ratio", "1:9")),
}
NAMES = [*SCENARIOS, MEMORY]

GOALS = [
    Goal("unpipelined", "memcached", 0.97),
    Goal("unpipelined", "echo", 1.07),
    Goal("pipelined", "valkey", 0.70),
    Goal("sets", "valkey", 0.75),
    Goal("multiget", "memcached", 0.60),
    Goal(MEMORY, "memcached", 1 / 1.3),
]
RATE_SHARE = 0.6


def measure(options):
    """All rounds, then the memory; every figure of every window."""
    rounds, rate = [], options.rate
    timed = [name for name in options.scenarios if name != MEMORY]
    for number in range(options.rounds if timed else 0):
        windows, rate = one_round(options, number, timed, rate)
        rounds.append(windows)
    weighed = {}
    for kind in options.kinds if MEMORY in options.scenarios else []:
        if kind.keeps_items:
            weighed[kind.name] = weigh(kind, options.weigh_mebibytes, options.weigh_sets, threads=1)
            progress(f"memory: {kind.name}: {weighed[kind.name]['bytes_per_item']:.1f} bytes an item")
    return {"rounds": rounds, "rate": rate, MEMORY: weighed}


def one_round(options, number, scenarios, rate):
    """Every scenario with every server; also the rate of the open loop, once it is known."""
    windows = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        servers = []
        for kind in in_order(options.kinds, number):
            server = running.enter_context(Server(kind, folder, options.server_core, mebibytes=options.mebibytes))
            if kind.keeps_items:
                options.generator.fill(server, options.fill_bytes)
            server.pause()
            servers.append(server)
        for name in sorted(scenarios, key=NAMES.index):
            paced = ("--rate", str(rate)) if name == LATENCY else ()
            windows[name] = in_turn(options, number, servers, name, (*SCENARIOS[name].flags, *paced))
            if name == "unpipelined" and not rate:
                rate = int(RATE_SHARE * min(one["requests_per_second"] for one in windows[name].values()))
    return windows, rate


def in_turn(options, number, servers, name, flags):
    """One scenario with every server, one after the other."""
    windows = {}
    for server in servers:
        server.resume()
        figures = window(server, options.server_core, options.generator, flags, number + 1)
        server.pause()
        require_hits(server, figures)
        windows[server.kind.name] = figures
    costs = ", ".join(f"{name} {figures['cpu_ns_per_request']:,.0f}" for name, figures in windows.items())
    progress(f"round {number + 1} of {options.rounds}, {name}: ns a request: {costs}")
    return windows


def summarize(results):
    """Medians and spreads, remora's ratio to every peer, and what became of the goals."""
    rounds = results["rounds"]
    named = {name: [one[name] for one in rounds] for name in rounds[0]} if rounds else {}
    against = {name: against_peers(windows, "cpu_ns_per_request") for name, windows in named.items()}
    if results[MEMORY]:
        named[MEMORY] = [results[MEMORY]]
        against[MEMORY] = against_peers(named[MEMORY], "bytes_per_item")
    figures = {name: figures_of(windows) for name, windows in named.items()}
    return {"figures": figures, "ratios": against, "goals": verdicts(GOALS, against)}


def render(options, results, summary):
    """The tables."""
    names = [kind.name for kind in options.kinds]
    every = [one for windows in results["rounds"] for each in windows.values() for one in each.values()]
    parts = scenario_tables(names, summary) if every else []
    if LATENCY in summary["figures"]:
        parts += latency_table(names, results["rate"], summary["figures"][LATENCY])
    if MEMORY in summary["figures"]:
        parts += memory_table(options, summary)
    return "\n".join([*parts, quiet(every)] if every else parts)


def scenario_tables(names, summary):
    figures = summary["figures"]
    rows = [name for name in NAMES if name in figures and name not in (LATENCY, MEMORY)]
    peers = [name for name in names if rows and name in summary["ratios"][rows[0]]]
    of_each = lambda name, show: [SCENARIOS[name].title, *(show(figures[name][server]) for server in names)]
    cost = lambda one: one["cpu_ns_per_request"].show()
    own = lambda one: one["user_ns_per_request"].show()
    rate = lambda one: f"{one['requests_per_second'].show()}, {one['server_busy_share'].median:.0%} busy"
    ratios = [[SCENARIOS[name].title, *(show_ratio(summary, name, peer) for peer in peers)] for name in rows]
    parts = []
    if rows:
        said = "Processor time of the server for each request, ns: the median over the rounds (least..greatest)."
        parts += section(said, ["", *names], [of_each(name, cost) for name in rows])
    if peers:
        said = "remora's to each of the others' in the same round, and the goals."
        parts += section(said, ["", *peers], ratios)
    if rows:
        said = "Of that time, ns in the server's own code; the rest is the kernel's work for it."
        parts += section(said, ["", *names], [of_each(name, own) for name in rows])
        said = "Requests a second, and how busy the server's core was: where it was idle, the load was the limit."
        parts += section(said, ["", *names], [of_each(name, rate) for name in rows])
    return parts


def latency_table(names, rate, figures):
    said = f"Latency in ms at {rate:,} requests a second, {SCENARIOS[LATENCY].title}, counted from when each was due."
    rows = [[*latency_row(name, figures[name]), figures[name]["cpu_ns_per_request"].show()] for name in names]
    return [*section(said, [*LATENCY_HEAD, "ns a request"], rows), *behind(figures)]


def memory_table(options, summary):
    rows = []
    for name, one in summary["figures"][MEMORY].items():
        size, items = one["bytes_per_item"].show(".1f"), one["items"].show()
        rows.append([name, size, items, show_ratio(summary, MEMORY, name)])
    said = (
        f"Resident bytes an item: keys of 20 bytes, values of 100, filled to eviction at {options.weigh_mebibytes} MiB."
    )
    return section(said, ["", "bytes an item", "items", "remora's to it"], rows)
