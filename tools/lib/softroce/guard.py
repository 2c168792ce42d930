"""The scenario that holds the tool itself to its word: what goes wrong in a guest must come out as
a failure."""

from .guest import Guest, GuestFailed, script_text
from .image import Image
from .outcome import Outcome

UP_SECONDS = 60
END_SECONDS = 30
NEVER_SECONDS = 2

# What the script does, for how long it is waited for, and what must be said of it.
WRONGS = {
    "panic": ("echo c >/proc/sysrq-trigger; sleep 60", END_SECONDS, "ended without a result"),
    "hang": ("sleep 600", NEVER_SECONDS, "was not done within"),
    "left": ("reboot -f; sleep 60", END_SECONDS, "ended without a result"),
    "forged": ("echo '@@result 0123456789abcdef 0'; reboot -f; sleep 60", END_SECONDS, "ended without a result"),
}


def guard(machine):
    """guests that panic, hang, leave early or make up a result must fail"""
    failed = 0
    for name, (commands, seconds, expected) in WRONGS.items():
        with Guest(machine, "guard", Image(machine.kernel), script_text(commands)) as guest:
            guest.up(UP_SECONDS)
            try:
                said = f"passed with status {guest.result(seconds)}"
            except GuestFailed as failure:
                said = str(failure)
        if expected not in said:
            print(f"guard: a guest with a {name} {said}")
            failed += 1
    with Guest(machine, "guard", Image(machine.kernel), script_text("exit 3")) as guest:
        status = guest.result(UP_SECONDS)
    if status != 3:
        print(f"guard: a script's status 3 came out as {status}")
        failed += 1
    print(f"guard: {len(WRONGS) + 1} guests with something wrong, {failed} of them not noticed")
    return Outcome(len(WRONGS) + 1, failed)
