"""What tools/planted makes of what tests say: a bug is caught only by an assertion of a test that
its patch names."""

import importlib.machinery
import importlib.util
import sys
import unittest
from pathlib import Path

TOOL = Path(__file__).resolve().parent.parent / "planted"

SAID = """
running 3 tests
F.F
failures:

---- pull::lies::lines stdout ----

thread 'pull::lies::lines' (7) panicked at tests/simulated/pull/lies.rs:10:5:
assertion `left == right` failed

---- pull::faults::late stdout ----
Error: "the file is gone"

---- pull::faults::torn stdout ----
note: test did not panic as expected at tests/simulated/pull/faults.rs:9:4

failures:
    pull::faults::late
    pull::faults::torn
    pull::lies::lines

test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
"""


def load():
    """The tool, which has no name of a module's; nothing is compiled beside it."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader = importlib.machinery.SourceFileLoader("planted", str(TOOL))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("planted", loader))
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


class Asserted(unittest.TestCase):
    def setUp(self):
        self.asserted = load().asserted

    def test_a_panic_of_the_named_test_counts(self):
        self.assertEqual(self.asserted(SAID, ["pull::lies"]), ["pull::lies::lines"])
        self.assertEqual(self.asserted(SAID, ["faults::torn"]), ["pull::faults::torn"])
        self.assertEqual(self.asserted(SAID, []), ["pull::lies::lines", "pull::faults::torn"])

    def test_another_test_or_another_end_does_not(self):
        self.assertEqual(self.asserted(SAID, ["pull::push"]), [])
        self.assertEqual(self.asserted(SAID, ["faults::late"]), [], "an error that it returned is no assertion")
        died = "running 1 test\nerror: test failed\nprocess didn't exit successfully (signal: 6, SIGABRT: process abort signal)"
        self.assertEqual(self.asserted(died, []), [])


if __name__ == "__main__":
    unittest.main()
