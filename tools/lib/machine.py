"""The machine: which cores a run takes, what was done on them, and a description that names
nobody."""

import os
import platform
import re
import sys
from pathlib import Path

NANOSECONDS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def siblings(core):
    """The logical cores that are the same physical core."""
    listed = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    return numbers(listed.read_text().strip()) if listed.exists() else [core]


def numbers(cores):
    """0,2-3: 0 2 3"""
    spans = [part.partition("-") for part in cores.split(",")]
    return [core for low, _, high in spans for core in range(int(low), int(high or low) + 1)]


def two_cores(first=None):
    """Two cores that this process may use, different physical ones if there are such."""
    free = sorted(os.sched_getaffinity(0))
    first = free[0] if first is None else first
    others = [core for core in free if core != first]
    if not others:
        sys.exit("this needs two cores, one for the servers and one for the load")
    apart = [core for core in others if core not in siblings(first)]
    return first, (apart or others)[0]


def other_cores(taken):
    """The cores that are left, or the same ones if none are."""
    left = sorted(os.sched_getaffinity(0) - set(taken))
    return ",".join(map(str, left or taken))


def busy_ns(cores):
    """Time that the cores were not idle, and time of it that the host of a virtual machine kept,
    since the start."""
    wanted = {f"cpu{core}" for core in cores}
    rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    # user nice system idle iowait irq softirq steal
    rows = [[int(ticks) for ticks in row[1:9]] for row in rows if row[0] in wanted]
    busy = sum(sum(row) - row[3] - row[4] for row in rows)
    return busy * NANOSECONDS_PER_TICK, sum(row[7] for row in rows) * NANOSECONDS_PER_TICK


def describe():
    """Cores, processor, kernel."""
    processor = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", processor, re.MULTILINE)
    kernel = re.match(r"[\d.]+", platform.release())
    return {
        "cores": os.cpu_count(),
        "processor": model[1] if model else platform.machine(),
        "kernel": f"{platform.system()} {kernel[0].rstrip('.') if kernel else platform.release()}",
        "is_virtual": bool(re.search(r"^flags\s*:.*\bhypervisor\b", processor, re.MULTILINE)),
    }
