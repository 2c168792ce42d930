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
    """Reads the output of test binaries (libtest's), which is passed on, up to the word of how each ended."""

    def __init__(self, names):
        self.counts = {name: [] for name in names}  # of each binary: (passed, failed) of its result lines
        self.statuses = {}
        self.unclaimed = []

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
            self.unclaimed.append((int(found[1]), int(found[2])))

    def ended(self, name, status):
        self.statuses[name] = status
        self.counts[name], self.unclaimed = self.unclaimed, []

    def outcome(self):
        """A binary that did not end, ended badly without a test case to blame, or ran none counts as a failure."""
        total = Outcome(0, 0)
        for name, counts in self.counts.items():
            passed, failed = sum(count[0] for count in counts), sum(count[1] for count in counts)
            status = self.statuses.get(name)
            if failed == 0 and (status != 0 or passed == 0):
                ended = "did not end" if status is None else f"ended with status {status}"
                print(f"{name}: {ended}, {passed} test cases passed")
                failed = 1
            total += Outcome(passed + failed, failed)
        return total
