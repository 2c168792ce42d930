"""Without a guest: test binaries and programs on this host, over its own RDMA device or an rxe
device made for them.

The device is the one that REMORA_TEST_VERBS gives an address of, else one that has an IPv4 address
and is active, else rxe on one end of a veth pair, which is removed afterwards.
"""

import ipaddress
import os
import resource
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from .host import HOST_PACKAGES, ROOT, Cannot, ensure_packages, say
from .outcome import Results
from .scenarios import (
    CONFORMANCE,
    CONFORMANCE_SECONDS,
    LIBTEST,
    REPLICAS,
    REPLICAS_SECONDS,
    RUN_SECONDS,
    test_programs,
)

DEVICES = Path("/sys/class/infiniband")
NETDEV, NETDEV_PEER, RXE = "remora-rxe", "remora-rxe-peer", "rxe-remora"
ADDRESS = "10.7.255.1"  # not one that a network of this host is likely to use
ACTIVE = "4: ACTIVE"  # of a port, in sysfs
GID_SECONDS = 10


def addresses(devices=DEVICES):
    """IPv4 addresses of this host's active RDMA devices (RoCE), from their tables of GIDs."""
    found = []
    for gid in sorted(devices.glob("*/ports/*/gids/*")):
        try:
            state = (gid.parent.parent / "state").read_text().strip()
            address = ipaddress.IPv6Address(gid.read_text().strip()).ipv4_mapped
        except (OSError, ValueError):
            continue
        if state == ACTIVE and address and str(address) not in found:
            found.append(str(address))
    return found


@contextmanager
def device():
    """The address of an RDMA device for the time of the `with` block."""
    if given := os.environ.get("REMORA_TEST_VERBS"):
        yield given
    elif found := addresses():
        yield found[0]
    else:
        with own_rxe():
            yield ADDRESS


@contextmanager
def own_rxe():
    if os.geteuid() != 0:
        raise Cannot("no RDMA device here, and only root can make one; name one by its address in REMORA_TEST_VERBS")
    ensure_packages(HOST_PACKAGES)
    if not module_loaded():
        raise Cannot("this kernel has no module rdma_rxe; without --host the tests run in a guest that has it")
    say(f"making {RXE} on a veth pair")
    try:
        for words in (f"ip link add {NETDEV} type veth peer name {NETDEV_PEER}", f"ip link set {NETDEV_PEER} up",
                      f"ip address add {ADDRESS}/32 dev {NETDEV}", f"ip link set {NETDEV} up",
                      f"rdma link add {RXE} type rxe netdev {NETDEV}"):
            done = subprocess.run(words.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                raise Cannot(f"{words}: {done.stderr.strip()}")
        deadline = time.monotonic() + GID_SECONDS
        while ADDRESS not in addresses():
            if time.monotonic() >= deadline:
                raise Cannot(f"{RXE} got no GID of {ADDRESS} within {GID_SECONDS} s")
            time.sleep(0.05)
        yield
    finally:
        for words in (f"rdma link delete {RXE}", f"ip link delete {NETDEV}"):
            subprocess.run(words.split(), capture_output=True, check=False)


def module_loaded():
    if Path("/sys/module/rdma_rxe").exists():
        return True
    # rxe asks for the checksum by its name; where it is no module of its own, it is built in.
    subprocess.run(["modprobe", "crc32_generic"], capture_output=True, check=False)
    return subprocess.run(["modprobe", "rdma_rxe"], capture_output=True, check=False).returncode == 0


def run(words, seconds, heard):
    """A program over the device that `device` found, its output line by line to `heard`; its
    status."""
    with device() as address:
        environment = {**os.environ, "REMORA_TEST_VERBS": address}
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, errors="replace", preexec_fn=unlock_memory)
        bound = threading.Timer(seconds, process.kill)
        bound.start()
        try:
            for line in process.stdout:
                heard(line.rstrip("\n"))
            status = process.wait()
        finally:
            bound.cancel()
            process.kill()
            process.wait()
    return status if status >= 0 else 128 - status


def unlock_memory():
    """Memory that is registered is locked memory; only root may lift the limit."""
    if os.geteuid() == 0:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def conformance(_machine=None):
    """the test target conformance (what needs a device) on this host, one test case at a time"""
    return run_tests(CONFORMANCE, CONFORMANCE_SECONDS)


def replicas(_machine=None):
    """the test target processes (its part replicas) on this host: a primary and three replicas,
    some of which are killed"""
    return run_tests(REPLICAS, REPLICAS_SECONDS)


def run_tests(targets, seconds):
    built = test_programs(targets)
    results = Results({target: least for target, (_, least) in targets.items()})
    for target, (words, _) in targets.items():
        words = [str(built["test", target]), *words.split(), *LIBTEST]
        results.ended(target, run(words, seconds, results.heard))
    return results.outcome()


def run_program(words):
    """A program with its output passed on; its status."""
    return run(words, RUN_SECONDS, lambda line: print(line, flush=True))
