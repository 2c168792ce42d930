"""perftest in a guest: what rxe can do there, the yardstick for everything that is measured in the
same guest."""

import math
import re

from .guest import ORDERS, Guest, GuestFailed, script_text
from .image import Image
from .outcome import Outcome

UP_SECONDS = 60
MEASURE_SECONDS = 60

# Both ends of a measurement in one guest.
FUNCTIONS = r"""
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
# Under load perftest cannot always tell the rate of the processor's clock, and says inf or 0 for
# times.
measured() {
    for _ in 1 2 3 4 5; do
        both "$@" >/tmp/figures || { cat /tmp/figures; return 1; }
        grep -Eq '[ \t](-?inf|-?nan|0\.00)([ \t]|$)' /tmp/figures || break
    done
    cat /tmp/figures
}
"""


class Measuring(Guest):
    """A guest that perftest's programs can be run in."""

    def __init__(self, machine, name, image):
        super().__init__(machine, name, image, script_text(FUNCTIONS + ORDERS))

    def read_bandwidth(self, size_bytes, count=500):
        """READs of this size over one queue pair, MB/s (ib_read_bw's average)."""
        return self._measure(f"ib_read_bw -d rxe0 -x 1 -F -s {size_bytes} -n {count}",
                             rf"^ *{size_bytes} +{count} +\S+ +(\S+)")

    def read_latency(self, size_bytes, count=500):
        """One READ at a time, microseconds (ib_read_lat's typical, the median)."""
        return self._measure(f"ib_read_lat -d rxe0 -x 1 -F -s {size_bytes} -n {count}",
                             rf"^ *{size_bytes} +{count} +\S+ +\S+ +(\S+)")

    def _measure(self, words, row):
        """The figure, None where perftest could not tell the rate of the processor's clock."""
        text = "\n".join(self.ask(f"measured {words}", MEASURE_SECONDS))
        found = re.search(row, text, re.MULTILINE)
        if not found:
            raise GuestFailed(f"{words} did not end well; it said:\n{text}")
        figure = float(found[1])
        return figure if math.isfinite(figure) and figure > 0 else None


def perftest(machine):
    """perftest's READ bandwidth and latency in one guest: the yardstick of what rxe can do in this
    place"""
    with Measuring(machine, "perftest", Image(machine.kernel)) as guest:
        guest.up(UP_SECONDS)
        bandwidth, latency = guest.read_bandwidth(65536), guest.read_latency(64)
        guest.dismiss(MEASURE_SECONDS)
    if bandwidth and latency:
        print(f"perftest: ib_read_bw of 64 KiB {bandwidth:.1f} MB/s, ib_read_lat of 64 bytes {latency:.1f} us (median)")
    else:
        print("perftest: READs done, but no figures: perftest could not tell the rate of the processor's clock")
    return Outcome(2, 0)
