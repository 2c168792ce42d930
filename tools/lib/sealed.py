"""What TLS costs remora and memcached: each plain and by TLS, the same traffic, in interleaved
rounds.

Both offer what they offer by default; the generator takes the same version and suite of both, which
is checked. The certificate is made for the run.
"""

import dataclasses
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from lib.peers import SCENARIOS, in_turn
from lib.report import Figure, Goal, figures_of, quiet, section, verdicts
from lib.servers import Server
from lib.traffic import in_order

NAMES = ("unpipelined", "pipelined", "sets", "multiget")
BY_TLS = " by TLS"
# Where requests are batched, a record holds many of them, and what TLS alone costs is less than
# what two windows differ by anyway.
GOALS = [*(Goal(name, "with TLS", 1.0) for name in NAMES), Goal("unpipelined", "TLS alone", 1.0)]


def certificate(folder):
    """A file with a certificate for this host, signed by itself, and its key."""
    path = Path(folder) / "server.pem"
    curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256"
    words = f"openssl req -x509 -nodes -days 2 {curve} -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    authority = "-addext basicConstraints=critical,CA:FALSE"
    command = [*words.split(), *authority.split(), "-keyout", "-", "-out", "-"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        sys.exit(f"openssl makes no certificate: {made.stderr}")
    path.write_text(made.stdout)
    return str(path)


def measure(options):
    """All rounds: every figure of every window."""
    names = [name for name in options.scenarios if name in NAMES]
    if not names:
        sys.exit(f"--tls measures {', '.join(NAMES)}")
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        file = certificate(folder)
        sealed = [dataclasses.replace(kind, name=kind.name + BY_TLS, certificate=file) for kind in options.kinds]
        for number in range(options.rounds):
            rounds.append(one_round(options, number, names, [*options.kinds, *sealed]))
    return {"rounds": rounds}


def one_round(options, number, names, kinds):
    windows = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        servers = []
        for kind in in_order(kinds, number):
            server = running.enter_context(Server(kind, folder, options.server_core, mebibytes=options.mebibytes))
            options.generator.fill(server, options.fill_bytes)
            server.pause()
            servers.append(server)
        for name in names:
            windows[name] = in_turn(options, number, servers, name, SCENARIOS[name].flags)
            require_same_terms(windows[name])
    return windows


def terms(window):
    """The version and the suite that were used, of all servers by TLS."""
    return {figures["tls"] for figures in window.values() if figures["tls"]}


def require_same_terms(window):
    if len(terms(window)) > 1:
        sys.exit(f"the servers chose different versions or suites: {', '.join(sorted(terms(window)))}")


def summarize(results):
    """Medians and spreads; remora's cost to memcached's with TLS, and that of TLS alone."""
    rounds = results["rounds"]
    named = {name: [one[name] for one in rounds] for name in rounds[0]}
    figures = {name: figures_of(windows) for name, windows in named.items()}
    ratios = {}
    if {"remora", "memcached"} <= set(next(iter(figures.values()), {})):
        ratios = {name: ratios_of(windows) for name, windows in named.items()}
    return {"figures": figures, "ratios": ratios, "goals": verdicts(GOALS, ratios)}


def ratios_of(windows):
    """Round by round. What TLS alone costs is a difference, and less sure than its parts."""
    cost = lambda one, name: one[name]["cpu_ns_per_request"]
    alone = lambda one, name: cost(one, name + BY_TLS) - cost(one, name)
    return {
        "plain": Figure.of([cost(one, "remora") / cost(one, "memcached") for one in windows]),
        "with TLS": Figure.of([cost(one, "remora" + BY_TLS) / cost(one, "memcached" + BY_TLS) for one in windows]),
        "TLS alone": Figure.of([alone(one, "remora") / alone(one, "memcached") for one in windows]),
    }


def render(_options, results, summary):
    """The tables."""
    figures, every = summary["figures"], [one for windows in results["rounds"] for one in windows.values()]
    columns = sorted(next(iter(figures.values())), key=lambda name: (BY_TLS in name, "remora" not in name))
    cost = lambda name: [figures[name][column]["cpu_ns_per_request"].show() for column in columns]
    said = "Processor time of the server for each request, ns: the median over the rounds (least..greatest)."
    parts = section(said, ["", *columns], [[SCENARIOS[name].title, *cost(name)] for name in figures])
    if summary["ratios"]:
        judged = {(one.goal.scenario, one.goal.peer): one.show() for one in summary["goals"]}
        heads = list(next(iter(summary["ratios"].values())))
        ratio = lambda name, head: judged.get((name, head)) or summary["ratios"][name][head].show(".3f")
        rows = [[SCENARIOS[name].title, *(ratio(name, head) for head in heads)] for name in summary["ratios"]]
        said = "remora's to memcached's in the same round, and the goals. TLS alone: by TLS less plain."
        parts += section(said, ["", *heads], rows)
    chosen = sorted(set().union(*map(terms, every)))
    parts += [f"Version and suite: {', '.join(chosen)}.", ""]
    return "\n".join([*parts, quiet([figures for window in every for figures in window.values()])])
