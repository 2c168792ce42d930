"""Programs of newer Debian suites than the machine's own, fetched with apt into target/peers, each
with a root of its own.

Nothing of the machine changes: apt gets sources, lists and a cache of its own, and is told that
nothing is installed, so that it brings every library with the program. apt checks the signatures. A
program is started through its root's loader.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "target/peers"
APT_GET = Path(__file__).resolve().parent / "apt-get"

# Of a package that is in both, apt takes the newer.
SUITES = ("trixie", "sid")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
ATTEMPTS_MAX = 3
PAUSE_SECONDS = 5
# Two hundred packages at worst; a mirror that is slower than this is none.
APT_SECONDS_MAX = 600
OTHER_RUN_SECONDS_MAX = 1200
LISTS_SECONDS_MAX = 24 * 3600


class Cannot(Exception):
    """This machine lacks something, through no fault of the tree."""


@dataclass(frozen=True)
class Peer:
    """A program that Remora is held against."""

    name: str
    package: str
    least: tuple  # the oldest version that will do
    variable: str  # in the environment: another program to take for it
    tools: tuple = ()  # that come with it
    plugins: tuple = ()  # what it loads while it runs: package and file of each

    @property
    def wrapper(self):
        return FOLDER / "bin" / self.name

    @property
    def root(self):
        return FOLDER / self.name

    def has_plugins(self):
        return all((self.root / file).exists() for _, file in self.plugins)


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "memcached",
            "memcached",
            (1, 6, 38),
            "REMORA_MEMCACHED",
            plugins=(("libsasl2-modules", "usr/lib/x86_64-linux-gnu/sasl2/libplain.so"),),
        ),
        Peer("valkey-server", "valkey-server", (9, 0, 0), "REMORA_VALKEY", ("valkey-cli",)),
        Peer("etcd", "etcd-server", (3, 5, 16), "REMORA_ETCD"),
    )
}


def program(name):
    """Where to find a peer or a tool of one: what the environment names, else what was fetched,
    else the system's."""
    if named := name in PEERS and os.environ.get(PEERS[name].variable):
        return named
    fetched = FOLDER / "bin" / name
    return str(fetched) if fetched.exists() else name


def say(text):
    """What goes on; standard output is for results."""
    print(f"peers: {text}", file=sys.stderr, flush=True)


def version_of(path):
    """What the program says it is, as three numbers; None if it does not run."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return version_in(said.stdout) if said.returncode == 0 else None


def version_in(text):
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else None


def dotted(version):
    return ".".join(map(str, version))


def ensure(peer, again=False):
    """Fetch the peer unless it is there and runs; its version."""
    with alone():
        if again:
            shutil.rmtree(FOLDER / "apt", ignore_errors=True)
        if again or (version_of(peer.wrapper) or ()) < peer.least or not peer.has_plugins():
            fetch_with_patience(peer)
        version = version_of(peer.wrapper)
    return version


@contextmanager
def alone():
    """Holds the folder: two runs in one tree would unpack over each other."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + OTHER_RUN_SECONDS_MAX
    with open(FOLDER / "lock", "w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    why = f"another run has held {FOLDER}/lock for {OTHER_RUN_SECONDS_MAX} s"
                    raise Cannot(why) from None
                time.sleep(0.2)
        yield


def fetch_with_patience(peer):
    """A mirror that is being renewed, or a network that is away, may be there again a little
    later."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return fetch(peer)
        except Cannot as why:
            if attempt == ATTEMPTS_MAX:
                raise
            say(f"{why}; once more in {PAUSE_SECONDS} s")
            shutil.rmtree(FOLDER / "apt", ignore_errors=True)
            time.sleep(PAUSE_SECONDS)


def fetch(peer):
    """Download the package and all that it needs, unpack it, and see that it runs."""
    say(f"fetching {peer.package} and its libraries from Debian {' and '.join(SUITES)}")
    flags = private_apt()
    archives = FOLDER / "apt/cache/archives"
    shutil.rmtree(archives, ignore_errors=True)
    (archives / "partial").mkdir(parents=True)
    packages = [peer.package, *(package for package, _ in peer.plugins)]
    apt([*flags, "install", "--yes", "--download-only", "--no-install-recommends", *packages])
    new = peer.root.with_name(f"{peer.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    unpack(archives, new, peer)
    shutil.rmtree(archives, ignore_errors=True)
    shutil.rmtree(peer.root, ignore_errors=True)
    new.rename(peer.root)
    # The peer itself last: it says that all of it is there.
    for name in (*peer.tools, peer.name):
        write_wrapper(peer, name)
    version = version_of(peer.wrapper)
    if version is None:
        raise Cannot(f"{peer.package} was fetched to {peer.root}, but {peer.wrapper} --version does not run")
    if version < peer.least:
        raise Cannot(f"{peer.package} {dotted(version)} was fetched; {dotted(peer.least)} or newer is needed")
    say(f"fetched {peer.name} {dotted(version)}")


def apt(words):
    """apt-get with the machine's locks waited for; raises what it said."""
    if not shutil.which("apt-get"):
        raise Cannot("there is no apt-get to fetch it with")
    try:
        done = subprocess.run([APT_GET, *words], capture_output=True, text=True, timeout=APT_SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        raise Cannot(f"apt-get took longer than {APT_SECONDS_MAX} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise Cannot(f"apt-get failed: {said[-1]}")


def private_apt():
    """Flags for an apt that has its own sources, lists, cache, and no packages installed; its lists
    are up to date."""
    own = FOLDER / "apt"
    for folder in ("sources", "lists/partial", "cache/archives/partial"):
        (own / folder).mkdir(parents=True, exist_ok=True)
    (own / "status").touch()
    (own / "sources/peers.sources").write_text(sources())
    options = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": own / "sources",
        "Dir::State::Lists": own / "lists",
        "Dir::State::status": own / "status",
        "Dir::Cache": own / "cache",
        "Dir::Cache::archives": own / "cache/archives",
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "APT::Sandbox::User": "root",  # the user _apt may not see this folder
        "APT::Architecture": "amd64",
        "Debug::NoLocking": "true",  # what dpkg locks is not touched, and the rest is held by alone()
    }
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    updated = own / "updated"
    if not updated.exists() or time.time() - updated.stat().st_mtime > LISTS_SECONDS_MAX:
        apt([*flags, "update"])
        updated.touch()
    return flags


def sources():
    """The machine's own mirror, with other suites."""
    if os.uname().machine != "x86_64":
        raise Cannot("peers are fetched for x86-64 only")
    codename = re.search(r"^VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    form = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    signed = f"Signed-By: {KEYRING}\n" if Path(KEYRING).exists() else ""
    shown = subprocess.run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
                           capture_output=True, text=True, check=False) if shutil.which("apt-get") else None
    for line in shown.stdout.splitlines() if shown and codename else []:
        release, component, uri = line.split()
        if (release, component) == (codename[1], "main"):
            return f"Types: deb\nURIs: {uri}\nSuites: {' '.join(SUITES)}\nComponents: main\n{signed}"
    raise Cannot("this machine's apt has no Debian mirror to fetch from")


def unpack(archives, root, peer):
    """The program's own packages, and libraries; not what Debian needs to set a package up (perl,
    passwd, systemd)."""
    own = peer.package.split("-")[0]
    wanted = [path for path in archives.glob("*.deb") if path.name.startswith(("lib", own, "openssl-"))]
    root.mkdir(parents=True)
    for package in wanted:
        done = subprocess.run(["dpkg-deb", "-x", package, root], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Cannot(f"{package.name} could not be unpacked: {done.stderr.strip()}")


def write_wrapper(peer, name):
    """A script that becomes the program, under the same process id; it may be moved with its
    folder."""
    loader = next(iter(sorted(peer.root.glob("usr/lib64/ld-linux-*.so.2"))), None)
    program_file = f"usr/bin/{name}"
    if loader is None or not (peer.root / program_file).exists():
        raise Cannot(f"{peer.package} brought no {program_file}, or no loader")
    root = f'"$root/{peer.name}'
    libraries = f'{root}/usr/lib/x86_64-linux-gnu"'
    is_dynamic = subprocess.run([loader, "--verify", peer.root / program_file], check=False).returncode in (0, 2)
    start = f'{root}/{loader.relative_to(peer.root)}" --library-path {libraries} ' if is_dynamic else ""
    wrapper = FOLDER / "bin" / name
    wrapper.parent.mkdir(exist_ok=True)
    new = wrapper.with_suffix(".new")
    new.write_text(f'#!/bin/sh\n# Written by tools/peers.\nroot=${{0%/*}}/..\nexec {start}{root}/{program_file}" "$@"\n')
    new.chmod(0o755)
    new.rename(wrapper)
