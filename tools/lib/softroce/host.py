"""What the host must have: Debian packages, a kernel with rdma_rxe in a cache folder, and the
choice of an accelerator.

Where something cannot be had, `Cannot` says so with the remedy; the tool ends with status 77 for
it.
"""

import fcntl
import itertools
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent.parent
CACHE = ROOT / "target/soft-roce"
APT_GET = ROOT / "tools/lib/apt-get"
# Of which five minutes may be spent waiting for another apt.
APT_SECONDS_MAX = 600
OTHER_RUN_SECONDS = 600

# Package to a file that it brings.
BUILD_PACKAGES = {"libibverbs-dev": "/usr/include/infiniband/verbs.h", "librdmacm-dev": "/usr/include/rdma/rdma_cma.h"}
GUEST_PACKAGES = {
    "qemu-system-x86": "/usr/bin/qemu-system-x86_64",
    "busybox-static": "/bin/busybox",
    "kmod": "/sbin/modprobe",
    "ibverbs-providers": "/etc/libibverbs.d/rxe.driver",
    "ibverbs-utils": "/usr/bin/ibv_devinfo",
    "rdmacm-utils": "/usr/bin/rping",
    "perftest": "/usr/bin/ib_read_bw",
    "iproute2": "/usr/bin/rdma",
}
HOST_PACKAGES = {name: GUEST_PACKAGES[name] for name in ("kmod", "iproute2", "ibverbs-providers")}
KERNEL_META_PACKAGE = "linux-image-amd64"
# Of the kernel package, so that unpacking takes two seconds rather than ten.
KERNEL_PIECES = ("./boot/vmlinuz-*", "./lib/modules/*/modules.*") + tuple(
    f"./lib/modules/*/kernel/{folder}/*" for folder in ("arch/x86", "crypto", "lib", "net", "fs", "drivers/infiniband",
                                                        "drivers/net", "drivers/virtio"))

KVM_CREATE_VM = 0xAE01


class Cannot(Exception):
    """This host lacks something, through no fault of the tree."""


def say(text):
    """What goes on; standard output is for results."""
    print(f"soft-roce: {text}", file=sys.stderr, flush=True)


@contextmanager
def alone():
    """Holds the cache: two runs in one tree would overwrite each other's images and logs."""
    CACHE.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + OTHER_RUN_SECONDS
    with open(CACHE / "lock", "w") as lock:
        for attempt in itertools.count():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 0:
                    say("waiting for another run in this tree")
                if time.monotonic() >= deadline:
                    raise Cannot(f"another run in this tree has held {CACHE}/lock for {OTHER_RUN_SECONDS} s") from None
                time.sleep(0.1)
        yield


def apt(*words, cwd=None):
    """Run an apt-get command without questions, when no other apt is at work; whether it went
    well."""
    try:
        done = subprocess.run([APT_GET, *words], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              timeout=APT_SECONDS_MAX, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def ensure_packages(packages):
    """Install what is missing of `packages` (name to a file that it brings)."""
    missing = [name for name, file in packages.items() if not Path(file).exists()]
    if not missing:
        return
    remedy = f"apt-get install {' '.join(missing)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Cannot(f"not installed, and only root with apt-get could: {remedy}")
    say(f"installing {' '.join(missing)}")
    install = ["install", "-y", "--no-install-recommends", *missing]
    if not apt(*install) and not (apt("update") and apt(*install)):
        raise Cannot(f"could not be installed: {remedy}")
    missing = [name for name, file in packages.items() if not Path(file).exists()]
    if missing:
        raise Cannot(f"installed, yet these did not bring the file that is looked for: {' '.join(missing)}")


@dataclass(frozen=True)
class Kernel:
    """A kernel unpacked into the cache."""

    version: str
    root: Path  # holds boot/ and lib/modules/

    @property
    def image(self):
        plain = self.root / "boot/vmlinux"
        return plain if plain.exists() else self.root / f"boot/vmlinuz-{self.version}"

    def modules(self, names):
        """Files and parameters of the modules and of all that they need, in the order in which to
        load them."""
        files = []
        for name in names:
            shown = subprocess.run(["modprobe", "-d", self.root, "-S", self.version, "--show-depends", name],
                                   capture_output=True, text=True, check=False)
            if shown.returncode:
                raise Cannot(f"the kernel {self.version} has no module {name}: {shown.stderr.strip()}")
            for line in shown.stdout.splitlines():
                word, _, file = line.strip().partition(" ")
                if word == "insmod" and (path := Path(file.split()[0])) not in files:
                    files.append(path)
        return files


def ensure_kernel():
    """The kernel in the cache, fetched as a Debian package if there is none."""
    root = CACHE / "kernel"
    stamp = root / "version"
    if stamp.exists():
        return Kernel(stamp.read_text().strip(), root)
    if not shutil.which("apt-get"):
        raise Cannot(f"no apt-get to fetch a kernel with; unpack one with rdma_rxe to {root}, its version in {stamp}")
    package = kernel_package()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    say(f"fetching {package}")
    if not apt("download", package, cwd=root):
        raise Cannot(f"apt-get download {package} failed; is the network there?")
    version = unpack(next(root.glob("*.deb")), root)
    stamp.write_text(version)
    return Kernel(version, root)


def ensure_architecture():
    if os.uname().machine != "x86_64":
        raise Cannot("guests are made of this host's programs, for a machine that qemu is asked for as x86-64 only; "
                     "--host runs the tests without a guest")


def kernel_package():
    """The package that the newest kernel is in; the lists of packages are fetched if there are
    none."""
    for attempt in range(2):
        words = ["apt-cache", "depends", KERNEL_META_PACKAGE]
        shown = subprocess.run(words, capture_output=True, text=True, check=False)
        if found := re.search(r"Depends: (linux-image-\S+)", shown.stdout):
            return found[1]
        if attempt or os.geteuid() != 0 or not apt("update"):
            break
    raise Cannot(f"apt knows no package {KERNEL_META_PACKAGE}; run apt-get update")


def unpack(package, root):
    """Unpack what a guest may need of the kernel package; its version."""
    archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", root, "--wildcards", *KERNEL_PIECES], stdin=archive.stdout,
                   stderr=subprocess.DEVNULL, check=False)
    archive.stdout.close()
    images = list(root.glob("boot/vmlinuz-*"))
    if archive.wait() or len(images) != 1:
        raise Cannot(f"{package.name} could not be unpacked")
    version = images[0].name.removeprefix("vmlinuz-")
    decompress(images[0], root / "boot/vmlinux")
    subprocess.run(["depmod", "-b", root, version], check=True)
    package.unlink()
    return version


def decompress(bzimage, into):
    """The kernel inside a bzImage (Documentation/arch/x86/boot.rst), if it is packed with xz: qemu
    starts it all the same, and unpacking it under emulation takes longer than all the rest of the
    boot."""
    data = bzimage.read_bytes()
    setup_sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    try:
        into.write_bytes(lzma.LZMADecompressor().decompress(data[start : start + length]))
    except lzma.LZMAError:
        into.unlink(missing_ok=True)


def kvm_works():
    """Whether this process may make virtual machines in hardware."""
    try:
        with open("/dev/kvm", "rb+", buffering=0) as device:
            os.close(fcntl.ioctl(device, KVM_CREATE_VM, 0))
    except OSError:
        return False
    return True
