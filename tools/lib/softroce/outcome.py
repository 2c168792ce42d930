"""How many test cases ran and failed, read from what test binaries say."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Test cases and checks that ran over verbs, those that failed among them."""

    ran: int
    failed: int

    def __add__(self, other):
        return Outcome(self.ran + other.ran, self.failed + other.failed)


RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed")


class Results:
    """Reads the output of test binaries (libtest's, with --nocapture), which is passed on, up to
    the word of how each ended."""

    def __init__(self, leasts):
        """`leasts`: of each binary, how many test cases must have run."""
        self.leasts = leasts
        self.counts = {}  # of each binary that ended: test cases passed, failed
        self.statuses = {}
        self.unclaimed = [0, 0]

    def heard(self, line):
        """A line of the output; `@@ended NAME STATUS` follows the output of each binary."""
        # What died in the middle of a line wrote no end of it.
        if found := re.match(r"^(.*)@@ended (\S+) (\d+)$", line):
            if found[1]:
                print(found[1], flush=True)
            self.ended(found[2], int(found[3]))
            return
        print(line, flush=True)
        if found := RESULT.match(line):
            self.unclaimed[0] += int(found[1])
            self.unclaimed[1] += int(found[2])

    def ended(self, name, status):
        self.statuses[name] = status
        self.counts[name], self.unclaimed = self.unclaimed, [0, 0]

    def outcome(self):
        """A binary that did not end, ended badly without a test case to blame, or ran too few
        counts as a failure."""
        total = Outcome(0, 0)
        for name, least in self.leasts.items():
            passed, failed = self.counts.get(name, (0, 0))
            status = self.statuses.get(name)
            if failed == 0 and (status != 0 or passed < least):
                ended = "did not end" if status is None else f"ended with status {status}"
                print(f"{name}: {ended}; {passed} test cases ran and passed, {least} are to be there")
                failed = 1
            total += Outcome(passed + failed, failed)
        return total
