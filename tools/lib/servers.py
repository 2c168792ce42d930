"""The servers that are measured: how each is started, asked, held while another is measured, and
what it costs.

Every server runs in the foreground on a port of the kernel's choice, keeps its words in a log of
its own, and dies with the tool that started it (setpriv asks the kernel for that).
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
WAIT_SECONDS = 60

VALKEY_END = b"*2\r\n$4\r\nECHO\r\n$3\r\nend\r\n"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def remora_flags(threads, mebibytes):
    return ["serve", "-l", "127.0.0.1:0", "-t", str(threads), "-m", str(mebibytes)]


def memcached_flags(threads, mebibytes):
    return ["-u", "root", "-U", "0", "-p", "-1", "-l", "127.0.0.1", "-t", str(threads), "-m", str(mebibytes)]


def valkey_flags(_threads, mebibytes):
    """As a cache: one thread, nothing on disk, a limit of memory, the least used evicted."""
    cache = f"--appendonly no --maxmemory {mebibytes}mb --maxmemory-policy allkeys-lru".split()
    return ["--bind", "127.0.0.1", "--port", str(free_port()), "--io-threads", "1", "--save", "", *cache]


def echo_flags(_threads, _mebibytes):
    return ["--listen", "127.0.0.1:0"]


FLAGS = {"remora": remora_flags, "memcached": memcached_flags, "valkey": valkey_flags, "echo": echo_flags}
REMEDIES = {"memcached": "tools/peers memcached", "valkey": "tools/peers valkey-server"}


@dataclass(frozen=True)
class Kind:
    """A server that can be started."""

    name: str  # in tables
    family: str  # whose flags it takes
    program: tuple  # the program, and flags that were given with it
    certificate: str | None = None  # by TLS: of a file with a certificate and its key

    def command(self, threads, mebibytes):
        flags = [*FLAGS[self.family](threads, mebibytes), *self.program[1:]]
        if self.certificate:
            flags += ["-Z", "-o", f"ssl_chain_cert={self.certificate},ssl_key={self.certificate}"]
        return [self.program[0], *flags]

    @property
    def protocol(self):
        return "resp" if self.family == "valkey" else "text"

    @property
    def keeps_items(self):
        return self.family != "echo"

    def is_installed(self):
        return shutil.which(self.program[0]) is not None

    def version(self):
        if self.family == "echo":
            return "of this tree"
        said = subprocess.run([self.program[0], "--version"], capture_output=True, text=True, check=False).stdout
        number = re.search(r"\d+\.\d+\.\d+", said)
        return number[0] if number else "of unknown version"


def build(*flags):
    """Build with cargo, and give what it says of the artifacts."""
    words = ["cargo", "build", "--release", "--locked", "--quiet", *flags]
    built = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode:
        sys.exit(f"{' '.join(words)} failed")
    return built.stdout


def build_remora():
    build()
    return str(ROOT / "target/release/remora")


def build_echo():
    said = [json.loads(line) for line in build("--bench", "echo", "--message-format", "json").splitlines()]
    return next(one["executable"] for one in said if one.get("target", {}).get("kind") == ["bench"])


def bound(cores, words):
    """The command, bound to cores, and killed by the kernel when this tool is gone."""
    return ["setpriv", "--pdeathsig", "KILL", *(["taskset", "-c", cores] if cores else []), *words]


def let_run(process):
    """Let it use every core, at the usual priority, so that it ends soon. Where others keep its
    core busy, a virtual machine's kernel was seen to leave it waiting for minutes (dmesg said
    "workqueue lockup")."""
    # A process that has just ended has no threads, and only root may raise a priority.
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), range(os.cpu_count()))
            os.setpriority(os.PRIO_PROCESS, int(task.name), 0)


class Server:
    """A running server. Ends with its `with` block."""

    def __init__(self, kind, folder, cores=None, threads=1, mebibytes=64):
        self.kind = kind
        port_file, log = Path(folder) / f"{kind.name}.port", Path(folder) / f"{kind.name}.log"
        self.log = log
        port_file.unlink(missing_ok=True)
        words = bound(cores, kind.command(threads, mebibytes))
        with open(log, "wb") as output:
            environment = {**os.environ, "MEMCACHED_PORT_FILENAME": str(port_file)}
            self.process = subprocess.Popen(words, env=environment, stdout=output, stderr=output)
        try:
            self.port = self._wait_for_port(log, port_file, words)
        except BaseException:
            self.end()
            raise

    def _wait_for_port(self, log, port_file, words):
        for _ in range(WAIT_SECONDS * 50):
            said = log.read_text(errors="replace") + (port_file.read_text() if port_file.exists() else "")
            if port := re.search(r"listening on tcp 127\.0\.0\.1:(\d+)|TCP INET: (\d+)", said):
                return int(port[1] or port[2])
            if self.kind.family == "valkey" and "Ready to accept connections" in said:
                return int(words[words.index("--port") + 1])
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        sys.exit(f"{self.kind.name} did not come up ({' '.join(words)}); it said: {log.read_text(errors='replace')}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        let_run(self.process)
        self.process.kill()
        self.process.wait(timeout=WAIT_SECONDS)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_SECONDS)

    def cpu_ns(self):
        """Processor time in nanoseconds of all its threads by the scheduler's account."""
        return sum(int(task.read_text().split()[0]) for task in self._tasks("schedstat"))

    def ticks(self):
        """Of that, clock ticks in its own code, and in the kernel for it."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(stat[11]), int(stat[12])

    def context_switches(self):
        """Of all its threads: how often they went to sleep, and how often they were made to
        wait."""
        said = "".join(task.read_text() for task in self._tasks("status"))
        count = lambda name: sum(int(number) for number in re.findall(rf"^{name}:\s+(\d+)", said, re.MULTILINE))
        return {"voluntary": count("voluntary_ctxt_switches"), "involuntary": count("nonvoluntary_ctxt_switches")}

    def _tasks(self, file):
        return Path(f"/proc/{self.process.pid}/task").glob(f"*/{file}")

    def resident_kib(self):
        """What the process holds: VmRSS with its parts, and the huge pages that VmRSS does not
        count."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        figures = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
        names = ("VmRSS", "RssAnon", "RssFile", "RssShmem", "HugetlbPages")
        return {name: figures.get(name, 0) for name in names}

    def stats(self):
        """Its counters; for Valkey those of memcached's names that are needed here."""
        with self.connect() as connection:
            if self.kind.family == "valkey":
                said = ask(connection, b"INFO\r\n" + VALKEY_END, b"$3\r\nend\r\n").decode()
                held = re.search(r"^db0:keys=(\d+)", said, re.MULTILINE)
                evicted = re.search(r"^evicted_keys:(\d+)", said, re.MULTILINE)
                return {"curr_items": held[1] if held else "0", "evictions": evicted[1]}
            lines = ask(connection, b"stats\r\n", b"END\r\n").decode().split("\r\n")
            return dict(line.split(" ", 2)[1:] for line in lines if line.startswith("STAT "))


def ask(connection, request, end):
    """Send a request; what comes back, up to `end`."""
    connection.sendall(request)
    answer = b""
    while not answer.endswith(end):
        piece = connection.recv(1 << 16)
        if not piece:
            sys.exit("the server hung up")
        answer += piece
    return answer
