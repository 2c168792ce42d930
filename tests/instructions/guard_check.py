#!/usr/bin/env python3
"""tools/instructions itself: what it lets pass, what it refuses and what it then names. Takes the
recorded budget for what was measured, against a budget with one number changed, so nothing is built
or counted here.
"""

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent.parent
TOOL = ROOT / "tools/instructions"
RECORDED = ROOT / "benches/hotpath.budget.json"
SCENARIO = "get-hit-x32"


def tool_as_module():
    loader = importlib.machinery.SourceFileLoader("instructions", str(TOOL))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("instructions", loader))
    loader.exec_module(module)
    return module


def judged(change):
    """The exit status and the words when what is recorded is held against what `change` makes of
    it."""
    budget = json.loads(RECORDED.read_text())
    change(budget)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(budget))
        file.flush()
        command = [TOOL, "--measured", RECORDED, "--budget", file.name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def scaled(percent):
    """The budget of one scenario, lowered so that what is measured is so much above it, all for its
    largest function."""

    def change(budget):
        scenario = budget["scenarios"][SCENARIO]
        lowered = scenario["instructions"] / (1 + percent / 100)
        largest = next(iter(scenario["functions"]))
        scenario["functions"][largest] -= round(scenario["instructions"] - lowered)
        scenario["instructions"] = round(lowered)

    return change


def largest_function():
    return next(iter(json.loads(RECORDED.read_text())["scenarios"][SCENARIO]["functions"]))


class Verdicts(unittest.TestCase):
    def test_what_is_recorded_is_within_its_budget(self):
        status, words = judged(lambda budget: None)
        self.assertEqual(status, 0, words)
        self.assertIn("within budget", words)

    def test_over_budget_fails_and_names_the_function_that_grew(self):
        status, words = judged(scaled(+4))
        self.assertEqual(status, 1, words)
        self.assertIn(f"FAILED: {SCENARIO}: more than 3 % over budget", words)
        lines = words.splitlines()
        row = next(at for at, line in enumerate(lines) if line.startswith(SCENARIO + " "))
        self.assertRegex(lines[row], r"\+4\.\d %  OVER$")
        self.assertRegex(lines[row + 1], rf"^ +\+\d+  {largest_function()}: \d+, was \d+$")

    def test_a_little_over_passes(self):
        status, words = judged(scaled(+2.8))
        self.assertEqual(status, 0, words)

    def test_far_under_passes_and_asks_for_a_lower_budget(self):
        status, words = judged(scaled(-4))
        self.assertEqual(status, 0, words)
        self.assertIn(f"{SCENARIO}: more than 3 % under budget; lower it", words)

    def test_a_function_that_the_budget_does_not_name_is_shown_with_what_it_was_below(self):
        def change(budget):
            scaled(+4)(budget)
            del budget["scenarios"][SCENARIO]["functions"][largest_function()]

        status, words = judged(change)
        self.assertEqual(status, 1, words)
        self.assertRegex(words, rf"\+\d+  {largest_function()}: \d+, was below \d+")

    def test_a_scenario_without_a_budget_and_one_that_is_gone_fail(self):
        status, words = judged(lambda budget: budget["scenarios"].pop(SCENARIO))
        self.assertEqual(status, 1, words)
        self.assertIn(f"FAILED: {SCENARIO}: in the budget or in", words)
        status, words = judged(lambda budget: budget["scenarios"].update(gone=budget["scenarios"][SCENARIO]))
        self.assertEqual(status, 1, words)
        self.assertIn("FAILED: gone: in the budget or in", words)

    def test_another_compiler_is_named_and_judged_all_the_same(self):
        def change(budget):
            budget["measured with"]["rustc"] = "1.0.0"

        status, words = judged(change)
        self.assertEqual(status, 0, words)
        self.assertIn("rustc 1.0.0", words)

        def change_both(budget):
            change(budget)
            scaled(+4)(budget)

        self.assertEqual(judged(change_both)[0], 1)


PROFILE = """# callgrind format
version: 1
events: Ir
totals: 12

ob=/driver
fl=a.rs
fn=outer::h0123456789abcdef
0x10 1 3
fi=b.rs
0x14 7 4
cob=/libc
cfn=__memcpy_avx_unaligned_erms
calls=2 0x9
0x18 2 5
ob=/libc
fl=memcpy.S
fn=__memcpy_avx_unaligned_erms
0x9 1 5
"""


class Reading(unittest.TestCase):
    def setUp(self):
        self.tool = tool_as_module()

    def test_a_call_is_counted_once_where_it_runs(self):
        costs, symbols = self.tool.read_profile(PROFILE)
        self.assertEqual(costs, {("/driver", 0x10): 3, ("/driver", 0x14): 4, ("/libc", 0x9): 5})
        self.assertEqual(symbols["/libc", 0x9], "__memcpy_avx_unaligned_erms")

    def test_a_profile_that_does_not_add_up_is_refused(self):
        words = io.StringIO()
        with self.assertRaises(SystemExit), contextlib.redirect_stderr(words):
            self.tool.read_profile(PROFILE.replace("totals: 12", "totals: 13"))
        self.assertIn("callgrind counted 13 instructions, and 12 were read", words.getvalue())

    def test_functions_have_names_that_stay(self):
        source = f"{ROOT}/src/store/index.rs"
        for symbol, frames, name in [
            ("f::h0123456789abcdef", [("next<u8>", "/rustc/x/iter.rs"), ("scan<F>", source)], "src/store/index.rs scan"),
            ("f", [("{closure#0}", source), ("find", source)], "src/store/index.rs find"),
            ("f", [("a::<impl b::C>::find::h0123456789abcdef", source)], "src/store/index.rs find"),
            ("crc32c::hw::crc32c::h0123456789abcdef", [("crc_u8", "/registry/crc.rs")], "crc32c::hw::crc32c"),
            ("__memcpy_avx_unaligned_erms", [], "memcpy"),
            ("memcpy@GLIBC_2.2.5", [], "memcpy"),
            ("__memset_evex_unaligned", [], "memset"),
            ("0x00000000000a1b20", [], "libc.so.6"),
        ]:
            self.assertEqual(self.tool.function_name("/lib/libc.so.6", symbol, frames), name)


if __name__ == "__main__":
    unittest.main()
