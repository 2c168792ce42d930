"""Fetching peers, with an apt-get that this file makes up: what is asked of it, what is made of
what it says."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from lib import fetching

# Finds the lock taken as often as the file `taken` has lines, then does well, or what APT_STATUS
# says.
APT_GET = """#!/bin/sh
echo "$@" >>"$0.asked"
if [ -s "$0.taken" ]; then
    sed -i 1d "$0.taken"
    echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1 (apt-get)" >&2
    exit 100
fi
[ "${APT_STATUS:-0}" = 0 ] || echo "E: Unable to locate package" >&2
exit "${APT_STATUS:-0}"
"""


class AptGet(unittest.TestCase):
    def run_apt_get(self, taken, status=0):
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "apt-get"
            program.write_text(APT_GET)
            program.chmod(0o755)
            program.with_name("apt-get.taken").write_text("taken\n" * taken)
            path = f"{folder}:{os.environ['PATH']}"
            done = subprocess.run([fetching.APT_GET, "install", "x"], capture_output=True, text=True, check=False,
                                  env={**os.environ, "PATH": path, "APT_STATUS": str(status)}, timeout=60)
            return done, program.with_name("apt-get.asked").read_text().splitlines()

    def test_waits_while_another_apt_holds_a_lock(self):
        done, asked = self.run_apt_get(taken=2)
        self.assertEqual((done.returncode, done.stderr, len(asked)), (0, "", 3))
        self.assertIn("DPkg::Lock::Timeout=", asked[0])

    def test_does_not_try_again_what_failed_for_another_reason(self):
        done, asked = self.run_apt_get(taken=0, status=100)
        self.assertEqual((done.returncode, len(asked)), (100, 1))
        self.assertIn("Unable to locate package", done.stderr)


class Versions(unittest.TestCase):
    def test_are_numbers(self):
        for said, version in (("memcached 1.6.45", (1, 6, 45)), ("Valkey server v=9.1.2 sha=0", (9, 1, 2)), ("no", None)):
            self.assertEqual(fetching.version_in(said), version)
        self.assertLess((1, 6, 9), fetching.PEERS["memcached"].least)
        self.assertEqual(fetching.dotted((1, 6, 38)), "1.6.38")

    def test_of_what_does_not_run_there_is_none(self):
        self.assertIsNone(fetching.version_of("/nonexistent"))
        self.assertIsNone(fetching.version_of("/bin/false"))


class Lookup(unittest.TestCase):
    def test_the_environment_then_what_was_fetched_then_the_path(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(fetching, "FOLDER", Path(folder)):
            self.assertEqual(fetching.program("memcached"), "memcached")
            wrapper = Path(folder) / "bin/memcached"
            wrapper.parent.mkdir()
            wrapper.touch()
            self.assertEqual(fetching.program("memcached"), str(wrapper))
            with mock.patch.dict(os.environ, REMORA_MEMCACHED="/opt/memcached"):
                self.assertEqual(fetching.program("memcached"), "/opt/memcached")


class Ensure(unittest.TestCase):
    """Whether it fetches, and what becomes of what it got."""

    def setUp(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.enterContext(mock.patch.object(fetching, "FOLDER", Path(folder)))
        self.enterContext(mock.patch.object(fetching, "PAUSE_SECONDS", 0))
        self.enterContext(mock.patch.object(fetching, "say"))
        self.enterContext(mock.patch.object(fetching, "private_apt", return_value=[]))
        self.apt = self.enterContext(mock.patch.object(fetching, "apt"))
        self.enterContext(mock.patch.object(fetching, "unpack", side_effect=lambda _, root, peer: self.unpack(root, peer)))
        self.brings((1, 6, 45))

    def unpack(self, root, peer):
        for path in [root / file for _, file in peer.plugins]:
            path.parent.mkdir(parents=True)
            path.touch()

    def brings(self, version):
        text = f"#!/bin/sh\necho memcached {fetching.dotted(version)}\n"
        self.enterContext(mock.patch.object(fetching, "write_wrapper", side_effect=lambda peer, _: self.write(peer, text)))

    def write(self, peer, text):
        peer.wrapper.parent.mkdir(exist_ok=True)
        peer.wrapper.write_text(text)
        peer.wrapper.chmod(0o755)

    def test_once(self):
        for _ in range(2):
            self.assertEqual(fetching.ensure(fetching.PEERS["memcached"]), (1, 6, 45))
        self.assertEqual(self.apt.call_count, 1)
        fetching.ensure(fetching.PEERS["memcached"], again=True)
        self.assertEqual(self.apt.call_count, 2)

    def test_again_where_a_plugin_is_missing(self):
        fetching.ensure(fetching.PEERS["memcached"])
        (_, file), *_ = fetching.PEERS["memcached"].plugins
        (fetching.PEERS["memcached"].root / file).unlink()
        fetching.ensure(fetching.PEERS["memcached"])
        self.assertEqual(self.apt.call_count, 2)
        self.assertIn("libsasl2-modules", self.apt.call_args.args[0])

    def test_what_is_too_old_is_refused(self):
        self.brings((1, 6, 18))
        with self.assertRaisesRegex(fetching.Cannot, "1.6.38 or newer"):
            fetching.ensure(fetching.PEERS["memcached"])
        self.assertEqual(self.apt.call_count, fetching.ATTEMPTS_MAX)

    def test_a_mirror_that_fails_once_is_asked_again(self):
        self.apt.side_effect = [fetching.Cannot("away"), None]
        self.assertEqual(fetching.ensure(fetching.PEERS["memcached"]), (1, 6, 45))

    def test_a_mirror_that_is_away_is_given_up(self):
        self.apt.side_effect = fetching.Cannot("away")
        with self.assertRaisesRegex(fetching.Cannot, "away"):
            fetching.ensure(fetching.PEERS["memcached"])
        self.assertEqual(self.apt.call_count, fetching.ATTEMPTS_MAX)


if __name__ == "__main__":
    unittest.main()
