"""What is tested: test binaries and programs that cargo builds of this tree."""

import json
import shutil
import subprocess
from pathlib import Path

from .host import CACHE, ROOT

BUILD_SECONDS = 1800
LIBRARY = "lib"  # in place of a test target


class BuildFailed(Exception):
    """cargo could not build what is to be tested."""


def build(*flags):
    """Executables that cargo builds: (kind, name) to path, where the kind is test or bin."""
    words = ["cargo", *flags, "--message-format", "json-render-diagnostics"]
    try:
        done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=BUILD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildFailed(f"{' '.join(words)}: {error}") from None
    if done.returncode:
        raise BuildFailed(f"{' '.join(words)} failed")
    artifacts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {(one["target"]["kind"][0], one["target"]["name"]): Path(one["executable"])
            for one in artifacts if one.get("executable")}


def test_binaries(targets):
    """The binaries of test targets, by name, the library's own unit tests as LIBRARY; those of
    programs that they start, by kind bin, come with them."""
    flags = [word for name in targets for word in (("--lib",) if name == LIBRARY else ("--test", name))]
    built = build("test", "--no-run", "--locked", *flags)
    return {("test", LIBRARY) if kind == "lib" else (kind, name): file for (kind, name), file in built.items()}


def lean(program):
    """A copy without debugging information, which is most of a debug build and nothing to a guest;
    where it cannot be made (no strip, no ELF), the program itself."""
    if not shutil.which("strip"):
        return program
    copy = CACHE / f"stripped/{program.name}"
    copy.parent.mkdir(parents=True, exist_ok=True)
    words = ["strip", "--strip-debug", "--preserve-dates", "-o", copy, program]
    return program if subprocess.run(words, capture_output=True, check=False).returncode else copy
