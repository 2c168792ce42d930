"""Two guests on one wire: their network cards are joined by a unix socket, which the first listens
on.

Each has rxe on its card and the host's orders as its script
(`Guest.order`). What can befall them: `cut` and `heal` for the network, `fail_power` and
`boot_again` for a machine.
"""

import tempfile
from contextlib import ExitStack

from .guest import ORDERS, Guest, Network, script_text

ADDRESSES = ("10.7.0.1", "10.7.0.2")
MACS = ("52:54:00:07:00:01", "52:54:00:07:00:02")
BOOT_SECONDS = 60


class Pair:
    """Two running guests, in `guests`; they end with its `with` block."""

    def __init__(self, machine, name, image, cpus=2, heard=None):
        self.machine, self.name, self.image, self.cpus, self.heard = machine, name, image, cpus, heard
        self.stack = ExitStack()
        self.guests, self.boots = [None, None], [0, 0]
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="soft-roce-"))
        try:
            for number in (0, 1):
                self._start(number)
            for guest in self.guests:
                guest.up(BOOT_SECONDS)
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()

    def _start(self, number):
        side = "on" if number == 0 else "off"
        wire = f"stream,server={side},addr.type=unix,addr.path={self.folder}/wire"
        network = Network("nic", ADDRESSES[number], wire, MACS[number])
        self.boots[number] += 1
        name = f"{self.name}-{number + 1}" + (f"-boot{self.boots[number]}" if self.boots[number] > 1 else "")
        guest = Guest(self.machine, name, self.image, script_text(ORDERS), network, self.cpus, self.heard)
        self.guests[number] = self.stack.enter_context(guest)
        if number == 0:
            guest.command("query-status")  # once it answers, the socket is there

    def cut(self, number=1):
        """Pull out the plug of a guest: it sees the carrier go, the other one only silence."""
        self.guests[number].set_link(False)

    def heal(self, number=1):
        self.guests[number].set_link(True)

    def fail_power(self, number=1):
        """A guest is gone, and says nothing more. Only the second can come back: the first one
        holds the wire."""
        self.guests[number].kill()

    def boot_again(self):
        """The second guest from nothing, after its power failed."""
        self._start(1)
        self.guests[1].up(BOOT_SECONDS)
