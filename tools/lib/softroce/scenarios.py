"""What is run in guests. A scenario is a function of the machine that gives an
`Outcome`, and a line in `SCENARIOS`."""

import shlex
from pathlib import Path

from . import builds
from .bench import bench
from .guard import guard
from .guest import run_guest
from .host import BUILD_PACKAGES, ensure_packages
from .hosts import hosts
from .image import Image, host_place
from .large import large
from .outcome import Outcome, Results
from .pair import ADDRESSES, Pair
from .perftest import perftest

CONFORMANCE_SECONDS = 300  # for all of the test cases
REPLICAS_SECONDS = 480
RUN_SECONDS = 600
ORDER_SECONDS = 60
LIBTEST = ("--test-threads", "1", "--nocapture")  # so that what is skipped says so

# Test targets over verbs: what to say to the binary, and how many test cases there are at least.
# Fewer: some were lost. These are ignored wherever there is no device. Parts of others, and tests
# for two hosts, are left out.
CONFORMANCE = {"conformance": ("--ignored verbs:: verbs_writes:: --skip parts::", 53),
               builds.LIBRARY: ("--ignored fabric::verbs::", 2)}
REPLICAS = {"processes": ("--ignored replicas:: --skip two_servers", 5)}


def pair(machine):
    """two guests on one wire: READs between them, a network that is cut and heals, a guest that
    loses its power"""
    listens = until("rdma resource show cm_id | grep -q LISTEN")
    serve = f"rping -s -P -a {ADDRESSES[1]} >/tmp/server.log 2>&1 </dev/null & {listens}"
    ping = f"rping -c -a {ADDRESSES[1]} -C 20"
    count = "$(cat /sys/class/infiniband/rxe0/ports/1/hw_counters/rcvd_pkts)"
    with Pair(machine, "pair", Image(machine.kernel)) as both:
        one, two = both.guests
        two.order(serve, ORDER_SECONDS)
        one.order(ping, ORDER_SECONDS)

        one.order(f"rping -c -a {ADDRESSES[1]} >/tmp/client.log 2>&1 </dev/null & client=$!", ORDER_SECONDS)
        one.order(f"before={count}; {until(f'[ {count} -gt $((before + 100)) ]')}", ORDER_SECONDS)
        both.cut()
        # What was under way may still arrive. After that nothing does.
        one.order(f"sleep 0.5; before={count}; sleep 1; [ {count} = $before ]", ORDER_SECONDS)
        both.heal()
        one.order(ping, ORDER_SECONDS)
        one.order("kill $client; wait $client", ORDER_SECONDS, may_fail=True)

        both.fail_power()
        both.boot_again()
        both.guests[1].order(serve, ORDER_SECONDS)
        one.order(ping, ORDER_SECONDS)
        for guest in both.guests:
            guest.dismiss(ORDER_SECONDS)
    print("pair: rping works between two guests, stalls while the network is cut, works after it healed, "
          "and with a guest that lost its power and came again")
    return Outcome(4, 0)


def until(condition):
    """Shell that waits for a condition; the bound is the order's."""
    return f"until {condition}; do sleep 0.05; done"


def conformance(machine):
    """the test target conformance (what needs a device) in one guest, one test case at a time"""
    return run_tests(machine, "conformance", CONFORMANCE, CONFORMANCE_SECONDS)


def replicas(machine):
    """a primary and three replicas in one guest, pulling, and two pushed to: load that evicts, a
    late joiner, replica and primary killed"""
    return run_tests(machine, "replicas", REPLICAS, REPLICAS_SECONDS)


def run_tests(machine, name, targets, seconds):
    """Test targets in one guest, one test case at a time."""
    built = test_programs(targets)
    image = Image(machine.kernel)
    for (kind, program), file in built.items():
        # Tests start programs from where cargo has put them.
        image.program(builds.lean(file), host_place(file) if kind == "bin" else f"test/{program}")
    commands = ["cd /test"]
    for target, (words, _) in targets.items():
        commands.append(f"./{target} {words} {' '.join(LIBTEST)} </dev/null; echo \"@@ended {target} $?\"")
    results = Results({target: least for target, (_, least) in targets.items()})
    run_guest(machine, name, image, "\n".join(commands), seconds, heard=results.heard)
    outcome = results.outcome()
    print(f"{name}: {outcome.ran} test cases ran over verbs, {outcome.failed} failed")
    return outcome


def test_programs(targets):
    """What cargo builds for the test targets: (kind, name) to path, where the kind is test or
    bin."""
    ensure_packages(BUILD_PACKAGES)
    return builds.test_binaries(targets)


def run_program(machine, words, extra=()):
    """A program of the host in one guest, its output passed on; its status. `extra` files lie where
    they lie here."""
    image = Image(machine.kernel)
    program = Path(words[0])
    image.program(builds.lean(program), f"test/{program.name}")
    for file in extra:
        image.program(Path(file).resolve())
    commands = "cd /test && exec " + shlex.join([f"./{program.name}", *words[1:]]) + " </dev/null"
    return run_guest(machine, "run", image, commands, RUN_SECONDS, heard=lambda line: print(line, flush=True))


# In the order in which all of them run; what is only run when it is named stands below.
ALL = {"guard": guard, "perftest": perftest, "pair": pair, "conformance": conformance, "replicas": replicas,
       "hosts": hosts}
SCENARIOS = {**ALL, "bench": bench, "large": large}
