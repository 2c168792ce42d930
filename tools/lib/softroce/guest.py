"""One guest: a qemu process, its console as lines, its monitor.

A guest ran to its end only if its last line holds the token that it was given, with the status of
its script; a panic (any oops is one), a hang and a boot that failed end without that line and are
`GuestFailed`.

Under target/soft-roce/logs: NAME.console is what the script read and said, with the second of the
host's clock since the start; NAME.kernel is the kernel's log.
"""

import contextlib
import json
import os
import re
import secrets
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .host import CACHE

LOGS = CACHE / "logs"
BASE_MEBIBYTES = 512
GOODBYE_SECONDS = 20  # from the last line to the end of qemu
MONITOR_SECONDS = 20
KVM_PROBE_SECONDS = 15
KERNEL_LINES_SHOWN = 15
LINES_SHOWN = 25
# Passed on from the environment of the tool to the scripts of guests.
ENVIRONMENT = re.compile(r"^(RUST|REMORA)_\w+$")

# Without arch-capabilities: qemu dies of failing to set it where this host is a virtual machine
# itself.
KVM = ("-accel", "kvm", "-cpu", "host,-arch-capabilities")
TCG = ("-accel", "tcg,thread=multi", "-cpu", "max")
# A script that does what the host says, line by line: see Guest.order.
ORDERS = 'while read -r order; do eval "$order"; echo "@@done $?"; done'


class GuestFailed(Exception):
    """The guest did not do what it was to do; the text ends with what it last said."""


@dataclass(frozen=True)
class Network:
    """What rxe sits on in a guest."""

    kind: str = "veth"  # or nic
    address: str = "10.7.0.1"
    netdev: str = ""  # of qemu, for nic, without its id
    mac: str = ""

    def flags(self):
        if self.kind == "veth":
            return []
        return ["-netdev", f"{self.netdev},id=wire", "-device", f"virtio-net-pci,id=card,netdev=wire,mac={self.mac}"]


@dataclass(frozen=True)
class Machine:
    """How guests are run here."""

    kernel: object
    kvm: bool

    def flags(self, cpus):
        accelerator = KVM if self.kvm else TCG
        return ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                *accelerator, "-smp", str(cpus), "-kernel", str(self.kernel.image)]


def script_text(commands, environment=None):
    """A guest's script: the environment that is passed on, then the commands."""
    passed = {name: value for name, value in os.environ.items() if ENVIRONMENT.match(name)}
    passed.pop("REMORA_TEST_VERBS", None)  # init.sh sets the guest's own
    lines = [f"export {name}={shlex.quote(value)}" for name, value in {**passed, **(environment or {})}.items()]
    return "\n".join([*lines, commands, ""])


class Guest:
    """A running guest. Ends with its `with` block, like a machine that loses its power."""

    def __init__(self, machine, name, image, script, network=Network(), cpus=2, heard=None, more_mebibytes=0):
        """Boots `image` with `script`. `heard` is called with every line that the script says.
        `more_mebibytes` is for programs that need much memory."""
        self.name, self.heard = name, heard
        self.more_mebibytes = more_mebibytes
        self.token = secrets.token_hex(8)
        self.lines, self.changed = [], threading.Condition()
        self.next_line = 0  # that wait_for looks at
        self.script_status = None
        self.ended = False
        self.monitor = None
        self.folder = tempfile.TemporaryDirectory(prefix="soft-roce-")
        LOGS.mkdir(parents=True, exist_ok=True)
        self.kernel_log = LOGS / f"{name}.kernel"
        self.started = time.monotonic()
        image.text("script", script)
        words = machine.flags(cpus) + self._own_flags(image, network)
        self.log = open(LOGS / f"{name}.console", "w", encoding="utf-8")  # noqa: SIM115 (closed with the guest)
        # The kernel kills it when this tool is gone.
        self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *words], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.reader = threading.Thread(target=self._read, name=f"console of {name}", daemon=True)
        self.reader.start()

    def _own_flags(self, image, network):
        memory = BASE_MEBIBYTES + 3 * (image.size_bytes() >> 20) + self.more_mebibytes
        append = f"console=ttyS0 quiet panic=-1 oops=panic softroce.token={self.token} " \
                 f"softroce.network={network.kind} softroce.address={network.address}"
        return ["-m", str(memory), "-initrd", str(image.write(self.name)), "-append", append,
                "-chardev", f"file,id=kernel,path={self.kernel_log}", "-serial", "chardev:kernel",
                "-chardev", "stdio,id=script,signal=off", "-serial", "chardev:script",
                "-qmp", f"unix:{self.folder.name}/monitor,server=on,wait=off", *network.flags()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.reader.join()
        with contextlib.suppress(OSError):  # what was not read any more
            self.process.stdin.close()
        self.process.stdout.close()
        if self.monitor:
            self.monitor.close()
        self.log.close()
        self.folder.cleanup()

    def _read(self):
        """What the console says, line by line, until qemu is gone."""
        result = re.compile(rf"^(.*)@@result {self.token} (\d+)$")
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").rstrip("\r\n")
            found = result.match(line)
            self.log.write(f"{time.monotonic() - self.started:8.3f} {line}\n")
            self.log.flush()
            line = found[1] if found else line
            if line or not found:
                if self.heard and not line.startswith(("@@up", "@@done")):
                    self.heard(line)
                with self.changed:
                    self.lines.append(line)
                    self.changed.notify_all()
            if found:
                with self.changed:
                    self.script_status = int(found[2])
                    self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def failed(self, what):
        """The exception for `what`, with what the guest last said."""
        kernel = self.kernel_log.read_text(errors="replace").splitlines() if self.kernel_log.exists() else []
        said = "".join(f"\n    {line}" for line in self.lines[-LINES_SHOWN:])
        said += "".join(f"\n    kernel: {line}" for line in kernel[-KERNEL_LINES_SHOWN:])
        return GuestFailed(f"guest {self.name}: {what}; it last said:{said or ' nothing'}")

    def wait_for(self, pattern, seconds):
        """The match of the next line in which `pattern` (a regular expression) is found; others are
        passed over."""
        deadline = time.monotonic() + seconds
        pattern = re.compile(pattern)
        with self.changed:
            while True:
                while self.next_line < len(self.lines):
                    self.next_line += 1
                    if found := pattern.search(self.lines[self.next_line - 1]):
                        return found
                if self.ended or self.script_status is not None:
                    raise self.failed(f"ended without saying {pattern.pattern!r}")
                if not self.changed.wait(max(0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    raise self.failed(f"did not say {pattern.pattern!r} within {seconds} s")

    def send(self, line):
        """A line for the script to read."""
        self.log.write(f"{time.monotonic() - self.started:8.3f} > {line}\n")
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise self.failed(f"is gone; nobody reads {line!r}") from None

    def order(self, command, seconds, may_fail=False):
        """Has the script `ORDERS` run a command; its status. What goes on longer is for the
        background, without the console: `command >/tmp/log 2>&1 </dev/null &`."""
        self.send(command)
        status = int(self.wait_for(r"^@@done (\d+)$", seconds)[1])
        if status and not may_fail:
            raise self.failed(f"{command!r} ended with status {status}")
        return status

    def ask(self, command, seconds):
        """Has the script `ORDERS` run a command; the lines that it says, whatever its status."""
        begin = self.next_line
        self.order(command, seconds, may_fail=True)
        return self.lines[begin : self.next_line - 1]

    def dismiss(self, seconds):
        """Ends the script `ORDERS`; the guest shuts down."""
        self.send("exit 0")
        if status := self.result(seconds):
            raise self.failed(f"ended with status {status}")

    def result(self, seconds):
        """The status of the script, once it has ended within `seconds` of now and the guest has
        shut down."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while self.script_status is None:
                if self.ended:
                    raise self.failed("ended without a result (a panic, or it did not come up)")
                if time.monotonic() >= deadline:
                    raise self.failed(f"was not done within {seconds} s")
                self.changed.wait(deadline - time.monotonic())
        try:
            self.process.wait(GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            raise self.failed("gave its result, but did not shut down") from None
        return self.script_status

    def up(self, seconds):
        """Waits until rxe0 is up; seconds by the guest's clock since its start."""
        return float(self.wait_for(r"^@@up (.*)", seconds)[1])

    def kill(self):
        """Power failure."""
        self.process.kill()
        self.process.wait()

    def command(self, execute, **arguments):
        """A command to qemu's monitor (QMP); what it returns."""
        if self.monitor is None:
            self._open_monitor()
        request = {"execute": execute, "arguments": arguments} if arguments else {"execute": execute}
        try:
            self.monitor.write(json.dumps(request).encode() + b"\n")
            self.monitor.flush()
        except OSError:
            raise self.failed(f"the monitor is gone; nobody does {execute}") from None
        while True:
            answer = self._monitor_line()
            if "error" in answer:
                raise self.failed(f"the monitor refused {execute}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def _open_monitor(self):
        path, deadline = Path(self.folder.name) / "monitor", time.monotonic() + MONITOR_SECONDS
        channel = socket.socket(socket.AF_UNIX)
        channel.settimeout(MONITOR_SECONDS)
        while True:
            try:
                channel.connect(str(path))
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() >= deadline:
                    channel.close()
                    raise self.failed("the monitor did not open") from None
                time.sleep(0.01)
        self.monitor = channel.makefile("rwb")
        channel.close()
        self._monitor_line()  # the greeting: from here on the devices are there
        self.command("qmp_capabilities")

    def _monitor_line(self):
        try:
            line = self.monitor.readline()
        except OSError:
            line = b""
        if not line:
            raise self.failed("the monitor is gone")
        return json.loads(line)

    def set_link(self, connected):
        """Pull out the plug of the guest's network card, or put it in again; the guest sees the
        carrier go."""
        self.command("set_link", name="card", up=connected)


def run_guest(machine, name, image, commands, seconds, environment=None, heard=None):
    """One guest from boot to end with rxe on a veth pair; the status of its script."""
    with Guest(machine, name, image, script_text(commands, environment), heard=heard) as guest:
        return guest.result(seconds)


def kvm_boots(kernel, image):
    """Whether a guest comes up on KVM. In some virtual machines it opens all the same, and guests
    only spin."""
    try:
        with Guest(Machine(kernel, kvm=True), "kvm-probe", image, "") as guest:
            return guest.result(KVM_PROBE_SECONDS) == 0
    except GuestFailed:
        return False
