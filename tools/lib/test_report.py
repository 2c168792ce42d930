"""What tools/compare makes of figures. `cd tools && python3 -m unittest lib.test_report`."""

import tempfile
import unittest
from pathlib import Path

from lib.machine import numbers
from lib.report import (
    Figure,
    Goal,
    against_peers,
    behind,
    figures_of,
    place,
    show_ratio,
    table,
    verdicts,
    wrapped,
)
from lib.traffic import in_order

ROUNDS = [
    {"remora": {"ns": 10, "name": "x"}, "valkey": {"ns": 20}},
    {"remora": {"ns": 30}, "valkey": {"ns": 10}},
    {"remora": {"ns": 8}, "valkey": {"ns": 10}},
]


class Report(unittest.TestCase):
    def test_a_ratio_is_made_within_a_round_and_then_the_median_taken(self):
        self.assertEqual(against_peers(ROUNDS, "ns"), {"valkey": Figure(0.8, 0.5, 3.0)})
        self.assertEqual(against_peers([{"valkey": {"ns": 1}}], "ns"), {})

    def test_only_numbers_become_figures(self):
        self.assertEqual(figures_of(ROUNDS)["remora"], {"ns": Figure(10, 8, 30)})

    def test_a_goal_is_held_against_the_median(self):
        ratios = {"sets": {"valkey": Figure(0.75, 0.1, 2.0)}}
        goals = [Goal("sets", "valkey", 0.75), Goal("sets", "valkey", 0.7499), Goal("gets", "valkey", 1.0)]
        self.assertEqual([verdict.is_reached for verdict in verdicts(goals, ratios)], [True, False])
        summary = {"ratios": ratios, "goals": verdicts(goals[:1], ratios)}
        self.assertEqual(show_ratio(summary, "sets", "valkey"), "0.750 (0.100..2.000); goal 0.75: reached")
        self.assertEqual(show_ratio({**summary, "goals": []}, "sets", "valkey"), "0.750 (0.100..2.000)")
        self.assertEqual(show_ratio(summary, "sets", "remora"), "")

    def test_a_spread_is_shown_only_where_there_is_one(self):
        self.assertEqual(Figure.of([1500]).show(), "1,500")
        self.assertEqual(Figure.of([3, 1, 2]).show(".1f"), "2.0 (1.0..3.0)")

    def test_columns_stand_under_their_heads(self):
        shown = table(["", "ns"], [["remora", "7,559"], ["echo", "12"]])
        self.assertEqual(
            shown.split("\n"), ["|        |    ns |", "| ------ | ----: |", "| remora | 7,559 |", "| echo   |    12 |"]
        )

    def test_falling_behind_is_said_but_the_last_few_are_nothing(self):
        late = lambda unsent: {"echo": {"unsent": Figure.of([unsent]), "requests": Figure.of([10_000])}}
        self.assertEqual(behind(late(10)), [])
        self.assertIn("echo 11", behind(late(11))[0])

    def test_a_text_takes_the_place_of_the_one_before_and_of_no_other(self):
        with tempfile.TemporaryDirectory() as folder:
            document = Path(folder) / "A.md"
            document.write_text("a\n<!-- compare:tail -->\nold\n<!-- compare:tail end -->\nz\n")
            place(document, "tail", "new")
            place(document, "tail", "newer")
            self.assertEqual(document.read_text(), "a\n<!-- compare:tail -->\nnewer\n<!-- compare:tail end -->\nz\n")
            with self.assertRaises(SystemExit):
                place(document, "peers", "text")

    def test_prose_is_broken_where_a_page_ends_and_nothing_else_is(self):
        prose, row = " ".join(["some-words"] * 20), "| " + "cell " * 40 + "|"
        for text in (prose, f"- {prose}"):
            lines = wrapped(text).split("\n")
            self.assertEqual(len(lines), 3)
            self.assertTrue(all(90 < len(line) <= 100 for line in lines[:-1]), lines)
            self.assertEqual(" ".join(line.strip() for line in lines), text)
        self.assertTrue(all(line.startswith("  s") for line in wrapped(f"- {prose}").split("\n")[1:]))
        for text in (row, f"    {prose}", f"## {prose}", "word " * 10, "x" * 120):
            self.assertEqual(wrapped(f"a\n\n{text}\n\nb"), f"a\n\n{text}\n\nb")

    def test_what_is_put_into_a_page_is_as_narrow_as_a_page(self):
        with tempfile.TemporaryDirectory() as folder:
            document = Path(folder) / "A.md"
            document.write_text("<!-- compare:tail -->\n<!-- compare:tail end -->\n")
            place(document, "tail", f"{'word ' * 50}\n\n{table(['', 'ns'], [['remora', '1' * 100]])}")
            lines = document.read_text().split("\n")
            self.assertTrue(all(len(line) <= 100 for line in lines if not line.startswith("|")), lines)


class Turns(unittest.TestCase):
    def test_every_server_is_first_in_turn(self):
        self.assertEqual([in_order("abc", number)[0] for number in range(4)], ["a", "b", "c", "a"])

    def test_cores_are_counted(self):
        self.assertEqual(numbers("0,2-4"), [0, 2, 3, 4])


if __name__ == "__main__":
    unittest.main()
