"""What is counted of the output of test binaries, with the ways in which it may not count as
passed."""

import contextlib
import io
import unittest

from .outcome import Outcome, Results

PASSED = "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.12s"
FAILED = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.12s"
NONE = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.00s"


def counted(names, lines, least=1):
    with contextlib.redirect_stdout(io.StringIO()):
        results = Results(dict.fromkeys(names, least))
        for line in lines:
            results.heard(line)
        return results.outcome()


class Counting(unittest.TestCase):
    def test_passed(self):
        self.assertEqual(counted(["a"], ["test x ... ok", PASSED, "@@ended a 0"]), Outcome(5, 0))

    def test_failed(self):
        self.assertEqual(counted(["a"], [FAILED, "@@ended a 101"]), Outcome(5, 2))

    def test_each_binary_has_its_own(self):
        self.assertEqual(counted(["a", "b"], [PASSED, "@@ended a 0", FAILED, "@@ended b 101"]), Outcome(10, 2))

    def test_killed_after_its_result(self):
        self.assertEqual(counted(["a"], [PASSED, "@@ended a 139"]), Outcome(6, 1))

    def test_ran_nothing(self):
        self.assertEqual(counted(["a"], [NONE, "@@ended a 0"]), Outcome(1, 1))

    def test_killed_in_the_middle_of_a_line(self):
        self.assertEqual(counted(["a", "b"], ["test x ... @@ended a 139", PASSED, "@@ended b 0"]), Outcome(6, 1))

    def test_no_result(self):
        self.assertEqual(counted(["a"], ["test x ... ", "@@ended a 0"]), Outcome(1, 1))

    def test_never_ended(self):
        self.assertEqual(counted(["a", "b"], [PASSED, "@@ended a 0"]), Outcome(6, 1))

    def test_fewer_than_there_should_be(self):
        self.assertEqual(counted(["a"], [PASSED, "@@ended a 0"], least=5), Outcome(5, 0))
        self.assertEqual(counted(["a"], [PASSED, "@@ended a 0"], least=6), Outcome(6, 1))
