"""The root file systems of guests: an initramfs made of programs with the libraries that they need,
files and links.

An `Image` is a list of what goes where; `write` makes it a cpio archive (newc), unless the archive
that is there was made of the same things. Files keep the folders that they have on the host.
"""

import hashlib
import lzma
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

from .host import CACHE, Cannot

HERE = Path(__file__).resolve().parent
BUSYBOX = Path("/bin/busybox")
PROGRAMS = ("ip", "rdma", "ibv_devinfo", "ibv_devices", "ib_read_bw", "ib_read_lat", "rping")
# Loaded by name, so ldd does not know them: rxe's half in user space, and what pthread_exit needs.
PROVIDER = re.compile(r"librxe-rdmav\d+\.so$")
LIBGCC = "libgcc_s.so.1"
# In this order. Nothing pulls in crc32_generic: rxe asks for the checksum by its name.
MODULES = ("crc32_generic", "rdma_rxe", "ib_uverbs", "rdma_ucm", "veth", "virtio_net", "virtio_pci")
FOLDERS = ("dev", "proc", "sys", "tmp", "run", "root", "var/tmp", "modules")
ETC = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n10.7.0.1 one\n10.7.0.2 two\n",
    "etc/nsswitch.conf": "hosts: files\n",
}
ALIGN = 4  # of a newc archive's pieces


def host_place(path):
    """The path inside the image of a file of the host: links among its folders resolved, its own
    name kept."""
    path = Path(os.path.abspath(path))
    return str(path.parent.resolve() / path.name).lstrip("/")


def libraries(program):
    """The shared libraries of a program or library, as the host's dynamic loader finds them; none
    if it is static."""
    shown = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    if missing := re.findall(r"(\S+) => not found", shown):
        raise Cannot(f"{program} needs {', '.join(missing)}, and this host has no such library")
    return [Path(file) for file in re.findall(r"(/\S+) \(0x", shown)]


class Image:
    """What a guest's root file system is to hold."""

    def __init__(self, kernel):
        self.entries = {}  # path inside to (mode, bytes or the host's file or None)
        self._base(kernel)

    def _base(self, kernel):
        for link in ("bin", "sbin", "lib", "lib64"):
            if (Path("/") / link).is_symlink():
                self.link(link, os.readlink(f"/{link}"))
        for folder in FOLDERS:
            self.folder(folder)
        for applet in subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split():
            self.link(f"busybox/{applet}", "busybox")
        self.file(BUSYBOX, "busybox/busybox")
        self.link(host_place("/bin/sh"), "/busybox/busybox")
        for name in PROGRAMS:
            self.program(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or name, f"usr/bin/{name}")
        self.text("etc/libibverbs.d/rxe.driver", "driver rxe\n")
        self._found_by_name()
        for place, text in ETC.items():
            self.text(place, text)
        self._modules(kernel)
        self.file(HERE / "init.sh", "init", 0o755)

    def _found_by_name(self):
        verbs = next(file for file in libraries(shutil.which("ibv_devinfo")) if file.name.startswith("libibverbs.so"))
        for file in (verbs.parent.resolve() / "libibverbs").iterdir():
            if PROVIDER.search(file.name):
                self.program(file)
        self.program(verbs.parent / LIBGCC)

    def _modules(self, kernel):
        names = []
        for number, file in enumerate(kernel.modules(MODULES)):
            names.append(f"{number:02}-{file.name.removesuffix('.xz')}")
            content = lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file
            self.file(content, f"modules/{names[-1]}")
        self.text("modules/order", "\n".join(names) + "\n")

    def _put(self, place, mode, content):
        for parent in reversed(Path(place).parents[:-1]):
            if str(parent) not in self.entries:
                self.entries[str(parent)] = (stat.S_IFDIR | 0o755, None)
        self.entries[place] = (mode, content)

    def folder(self, place):
        self._put(place, stat.S_IFDIR | (0o1777 if place.endswith("tmp") else 0o755), None)

    def link(self, place, target):
        self._put(place, stat.S_IFLNK | 0o777, os.fsencode(target))

    def text(self, place, text, mode=0o644):
        self._put(place, stat.S_IFREG | mode, text.encode())

    def file(self, content, place=None, mode=None):
        """A file of the host, or bytes; at its own place unless another is given."""
        if isinstance(content, Path):
            mode = mode or (stat.S_IMODE(content.stat().st_mode) | 0o444)
        self._put(place or host_place(content), stat.S_IFREG | (mode or 0o644), content)

    def program(self, file, place=None):
        """A program or library, with all libraries that it needs."""
        file = Path(file)
        if not file.exists():
            raise Cannot(f"there is no {file} to put into a guest")
        self.file(file, place)
        for library in libraries(file):
            self.file(library)

    def size_bytes(self):
        return sum(content.stat().st_size if isinstance(content, Path) else len(content or b"")
                   for _, content in self.entries.values())

    def digest(self):
        """Of all that makes the image; of a file its path, size and time, as in make."""
        sum_ = hashlib.sha256()
        for place, (mode, content) in self.entries.items():
            if isinstance(content, Path):
                found = content.stat()
                content = f"{content} {found.st_size} {found.st_mtime_ns}".encode()
            sum_.update(repr((place, mode, content)).encode())
        return sum_.hexdigest()

    def write(self, name):
        """The archive `name` in the cache, written unless it is there and made of the same."""
        archive = CACHE / f"images/{name}.cpio"
        inputs = archive.with_suffix(".inputs")
        digest = self.digest()
        if archive.exists() and inputs.exists() and inputs.read_text() == digest:
            return archive
        archive.parent.mkdir(parents=True, exist_ok=True)
        inputs.unlink(missing_ok=True)
        with open(archive, "wb") as out:
            for number, (place, (mode, content)) in enumerate(self.entries.items(), start=1):
                content = content.read_bytes() if isinstance(content, Path) else content or b""
                write_entry(out, number, place, mode, content)
            write_entry(out, 0, "TRAILER!!!", 0, b"")
        inputs.write_text(digest)
        return archive


def write_entry(out, number, place, mode, content):
    """One entry of a newc archive: a header of hexadecimal numbers, the name, the content, each
    padded."""
    name = os.fsencode(place) + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device and its number twice, length of the name, no
    # checksum
    numbers = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
    out.write(header + b"\0" * (-len(header) % ALIGN))
    out.write(content + b"\0" * (-len(content) % ALIGN))
