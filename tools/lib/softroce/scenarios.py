"""What is run in guests: each scenario is a function that gives an `Outcome`, and a line in `SCENARIOS`."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from .guest import GuestFailed, run_guest
from .host import say
from .image import Image

GUEST_SECONDS = 120
RUN_SECONDS = 600


@dataclass(frozen=True)
class Outcome:
    """Test cases and checks that ran over verbs, and how many of them failed."""

    ran: int
    failed: int

    def __add__(self, other):
        return Outcome(self.ran + other.ran, self.failed + other.failed)


PERFTEST = """
both() {
    "$@" >/tmp/server.log 2>&1 </dev/null &
    server=$!
    until grep -q ':4853 00000000:0000 0A' /proc/net/tcp; do # it listens, on port 18515
        kill -0 $server 2>/dev/null || { cat /tmp/server.log; return 1; }
        sleep 0.05
    done
    "$@" "$REMORA_TEST_VERBS" || { cat /tmp/server.log; return 1; }
    wait $server
}
both ib_read_bw -d rxe0 -x 1 -F -s 65536 -n 500 && both ib_read_lat -d rxe0 -x 1 -F -s 64 -n 500
"""


def perftest(machine):
    """perftest's READ tools in one guest: the yardstick of what rxe can do in this place."""
    said = []
    status = run_guest(machine, "perftest", Image(machine.kernel), PERFTEST, GUEST_SECONDS, heard=said.append)
    text = "\n".join(said)
    bandwidth = re.search(r"^ *65536 +500 +\S+ +(\S+)", text, re.MULTILINE)
    latency = re.search(r"^ *64 +500 +\S+ +\S+ +(\S+)", text, re.MULTILINE)
    if status or not bandwidth or not latency:
        raise GuestFailed(f"perftest: status {status}; it said:\n{text}")
    say(f"perftest: ib_read_bw of 64 KiB {float(bandwidth[1]):.1f} MB/s, ib_read_lat of 64 bytes {latency[1]} us (median)")
    return Outcome(2, 0)


def run_program(machine, words, extra=(), seconds=RUN_SECONDS):
    """A program of the host in one guest, its output passed on; its status. `extra`: files to put at their own places."""
    image = Image(machine.kernel)
    program = Path(words[0]).resolve()
    image.program(program, f"test/{program.name}")
    for file in extra:
        image.program(Path(file).resolve())
    commands = "cd /test && exec " + shlex.join([f"./{program.name}", *words[1:]]) + " </dev/null"
    return run_guest(machine, "run", image, commands, seconds, heard=lambda line: print(line, flush=True))


SCENARIOS = {"perftest": perftest}
