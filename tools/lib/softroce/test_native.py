"""Which RDMA devices of a host count: a made-up /sys/class/infiniband."""

import tempfile
import unittest
from pathlib import Path

from .native import addresses

IPV4 = "0000:0000:0000:0000:0000:ffff:0a07:0001"
IPV6 = "fe80:0000:0000:0000:5054:00ff:fe07:0001"
NONE = "0000:0000:0000:0000:0000:0000:0000:0000"


class Devices(unittest.TestCase):
    def found(self, ports):
        with tempfile.TemporaryDirectory() as folder:
            for number, (state, gids) in enumerate(ports):
                port = Path(folder) / f"rdma{number}/ports/1"
                (port / "gids").mkdir(parents=True)
                (port / "state").write_text(f"{state}\n")
                for index, gid in enumerate(gids):
                    (port / f"gids/{index}").write_text(f"{gid}\n")
            return addresses(Path(folder))

    def test_an_active_port_with_an_ipv4_address_counts_once(self):
        self.assertEqual(self.found([("4: ACTIVE", [IPV6, IPV4, IPV4, NONE])]), ["10.7.0.1"])

    def test_others_do_not(self):
        others = [("1: DOWN", [IPV4]), ("4: ACTIVE", [IPV6, NONE]), ("4: ACTIVE", ["nonsense"])]
        self.assertEqual(self.found(others), [])

    def test_no_devices(self):
        self.assertEqual(self.found([]), [])
