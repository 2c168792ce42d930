"""KVM or software emulation (TCG): KVM where a guest was seen to come up on it. What was found is
kept until the host starts anew."""

from pathlib import Path

from .guest import Machine, kvm_boots
from .host import CACHE, Cannot, kvm_works, say
from .image import Image

CHOICES = ("auto", "kvm", "tcg")


def choose(kernel, wanted):
    """The machine for guests with `wanted` of `CHOICES`."""
    if wanted == "auto":
        return Machine(kernel, kvm=kvm_works() and remembered(kernel))
    if wanted == "kvm" and not kvm_works():
        raise Cannot("/dev/kvm cannot be used; without --accel kvm guests are emulated")
    return Machine(kernel, kvm=wanted == "kvm")


def remembered(kernel):
    """Whether a guest comes up on KVM; tried once in the life of the host."""
    this = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {kernel.version} kvm="
    known = CACHE / "accelerator"
    if not known.exists() or not known.read_text().startswith(this):
        boots = kvm_boots(kernel, Image(kernel))
        say("tried KVM: " + ("a guest came up" if boots else "no guest comes up on it here; emulating"))
        known.write_text(f"{this}{boots}")
    return known.read_text() == f"{this}True"
