"""What it costs to wait for replicas: throughput and latency of SETs whose answer is held until K
of two replicas have them.

Remora holds answers by --ack-replicas K: `remora load` measures it, pipelined (32 in flight on each
of 50 connections) and one at a time on one connection. Valkey has WAIT, which no load generator
sends: a client here sends 32 SETs and a WAIT in one piece on each of 50 connections, with K of zero
the SETs alone. So Valkey's figures are held against Valkey's own, not against Remora's.

What an acknowledged write takes longer is held against the lag of the same servers, writes one
right after the other: the median of stamps at the replica, less the median at the primary itself;
see lag.py.
"""

import contextlib
import selectors
import tempfile
import time

from lib.replication import lag
from lib.replication.family import Unable, connect, knows, running, without_push
from lib.replication.plots import bars
from lib.replication.stamps import exchange, set_answer, set_request
from lib.replication.told import Held, Table, Told, percentiles
from lib.report import Figure, progress
from lib.traffic import in_order, window

NAME = "acks"
TITLE = "Acknowledged writes"
REPLICAS = 2
MEBIBYTES = 128
TIMEOUT_MS = 5000
BATCH, CONNECTIONS = 32, 50
THROUGHPUT_GOAL, LATENCY_GOAL = 0.5, 3.0


def measure(run):
    if not knows(run.remora[0], "serve", "--ack-replicas"):
        raise Unable("this remora has no --ack-replicas")
    families = without_push(run.families)
    rounds = []
    for number in range(run.rounds):
        one = {}
        for family in in_order(families, number):
            of_needed = {needed: one_server(run, family, needed, number + 1) for needed in in_order(run.acks, number)}
            one[family.name] = {str(needed): of_needed[needed] for needed in run.acks}
        rounds.append(one)
        said = ", ".join(f"{name} {rate(figures, 1) / rate(figures, 0):.2f}" for name, figures in one.items())
        progress(f"acks, round {number + 1} of {run.rounds}: throughput with one ack to none: {said}")
    return {"goals_of": [family.name for family in families if family.is_goals], "acks": run.acks, "rounds": rounds}


def rate(figures, needed):
    return figures[str(needed)]["requests_per_second"]


def one_server(run, family, needed, seed):
    """Throughput pipelined, latency one at a time; where nothing is waited for, the lag as well."""
    flags = ("--ack-replicas", str(needed), "--ack-timeout", str(TIMEOUT_MS)) if family.is_remora and needed else ()
    with tempfile.TemporaryDirectory() as folder, running(family, folder, run.cores, MEBIBYTES, REPLICAS, flags) as (primary, replicas):
        measured = by_generator(run, primary, seed) if family.is_remora else by_batches(run, primary, needed)
        if not needed:
            measured["lag"] = lag.lags(family, primary, replicas[0], run.stamps, 0)
    return measured


def by_generator(run, primary, seed):
    many = run.generator(connections=CONNECTIONS, keys=100_000, value_bytes=100, seconds=run.seconds)
    one = run.generator(connections=1, keys=100_000, value_bytes=100, seconds=run.seconds)
    pipelined = window(primary, run.cores.primary, many, ("-P", str(BATCH), "--ratio", "1:0"), seed)
    single = window(primary, run.cores.primary, one, ("-P", "1", "--ratio", "1:0"), seed)
    of = lambda name: single[f"{name}_us"]
    return {"requests_per_second": pipelined["requests_per_second"], "p50_us": of("p50"), "p99_us": of("p99"), "max_us": of("max")}


def wait_request(needed):
    """RESP for a WAIT for so many replicas; nothing where none are waited for."""
    return b"*3\r\n$4\r\nWAIT\r\n$1\r\n%d\r\n$4\r\n%d\r\n" % (needed, TIMEOUT_MS) if needed else b""


def require_replicas(answer, needed):
    """WAIT answers how many have it, in time or not."""
    have = int(answer.rsplit(b":", 1)[1])
    if have < needed:
        raise Unable(f"Valkey's WAIT ended with {have} of {needed} replicas after {TIMEOUT_MS} ms")


def by_batches(run, primary, needed):
    """Valkey: batches of SETs with a WAIT at the end of each, then SETs with a WAIT each, one after
    the other."""
    many = b"".join(set_request(False, b"key-%06d" % key, b"v" * 100) for key in range(BATCH)) + wait_request(needed)
    answers = set_answer(False) * BATCH
    batches = batched(primary, many, answers, needed, run.seconds)
    one = set_request(False, b"key-000000", b"v" * 100) + wait_request(needed)
    took_us, until = [], time.monotonic() + run.seconds
    with contextlib.closing(connect(primary)) as connection:
        while (sent := time.monotonic()) < until:
            answer = exchange(connection, one, lambda said: is_complete(said, set_answer(False), needed))
            took_us.append((time.monotonic() - sent) * 1e6)
            if needed:
                require_replicas(answer, needed)
    told = percentiles(took_us)
    return {"requests_per_second": batches * BATCH / run.seconds, **{f"{name}_us": value for name, value in told.items()}}


def is_complete(said, answers, needed):
    return said == answers if not needed else len(said) > len(answers) + 2 and said.endswith(b"\r\n")


def batched(primary, request, answers, needed, seconds):
    """How many batches were answered: each connection has one under way."""
    done, until = 0, time.monotonic() + seconds
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(contextlib.closing(connect(primary)))
            connection.sendall(request)
            selector.register(connection, selectors.EVENT_READ, bytearray())
        while time.monotonic() < until:
            for key, _ in selector.select(timeout=1):
                piece = key.fileobj.recv(1 << 14)
                if not piece:
                    raise Unable("Valkey hung up")
                key.data.extend(piece)
                if is_complete(key.data, answers, needed):
                    if needed:
                        require_replicas(bytes(key.data), needed)
                    key.data.clear()
                    done += 1
                    key.fileobj.sendall(request)
    return done


def tell(results):
    rounds, told = results["rounds"], Told(TITLE)
    rows, drawn = [], []
    for family in rounds[0]:
        of = lambda needed, key, family=family: Figure.of([one[family][str(needed)][key] for one in rounds])
        lags = Figure.of([one[family]["0"]["lag"]["over_us"] for one in rounds])
        for needed in results["acks"]:
            ratio, added = compared(rounds, family, needed)
            beside = [ratio.show(".3f"), added.show(".1f")] if needed else ["", ""]
            shown = [of(needed, key).show(".1f") for key in ("p50_us", "p99_us", "max_us")]
            rows.append([f"{family}, {needed} of {REPLICAS}", of(needed, "requests_per_second").show(), beside[0], *shown, beside[1], lags.show(".1f")])
        drawn.append((family, [(f"{needed} acks", of(needed, "requests_per_second")) for needed in results["acks"]]))
        if family in results["goals_of"]:
            told.goals += goals(rounds, family)
    said = "SETs a second, 32 in flight; latency in us one at a time. Medians over the rounds (least..greatest)."
    head = ["waits for", "SETs a second", "to none", "p50", "p99", "max", "added to p50", "lag, p50"]
    told.tables.append(Table(said, head, rows))
    told.plots.append(bars("SETs a second, 32 in flight", "", drawn))
    told.notes.append("Valkey's clients are this tool's own, in Python: hold its rows against each other only.")
    return told


def compared(rounds, family, needed):
    """Throughput to that without acks, and what is added to the median latency."""
    pairs = [(one[family]["0"], one[family][str(needed)]) for one in rounds]
    ratio = Figure.of([acked["requests_per_second"] / plain["requests_per_second"] for plain, acked in pairs])
    return ratio, Figure.of([acked["p50_us"] - plain["p50_us"] for plain, acked in pairs])


def goals(rounds, family):
    ratio, _ = compared(rounds, family, 1)
    held = [Held("throughput, one replica over shm acknowledges, to none", ratio, THROUGHPUT_GOAL, at_least=True)]
    pairs = [(one[family]["1"]["p50_us"] - one[family]["0"]["p50_us"], one[family]["0"]["lag"]["over_us"]) for one in rounds]
    if all(over > 0 for _, over in pairs):
        figure = Figure.of([added / over for added, over in pairs])
        held.append(Held("latency added by one acknowledgement, to the median lag", figure, LATENCY_GOAL, form=".2f"))
    return held
