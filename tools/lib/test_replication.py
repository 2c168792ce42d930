"""What tools/compare-replication makes of figures.
`cd tools && python3 -m unittest lib.test_replication`."""

import types
import unittest
import xml.etree.ElementTree as xml
from unittest import mock

from lib.replication import acks, copying, cost, promote, saturated, stamps
from lib.replication.plots import bars, decades, lines, nice, spans
from lib.replication.told import Held, Table, Told, page, percentile, percentiles, rich
from lib.report import Figure


def cost_window(ns, replicated=0, written=1000):
    return {
        "cpu_ns_per_request": ns, "requests": 100, "replicated_bytes": replicated, "written_bytes": written,
        "sleeps_per_request": 0.5, "server_busy_share": 0.9, "others_busy_share": 0.0, "stolen_share": 0.0,
    }


def cost_round(alone, with_them):
    one = lambda ns, replicated: {name: cost_window(ns, replicated) for name in cost.SCENARIOS}
    resting = {"rest": {"primary_share": 0.001, "replica_share": 0.03}}
    return {"remora shm": {"0": one(alone, 0), "3": {**one(with_them, 1500), **resting}}}


class Telling(unittest.TestCase):
    def test_a_percentile_is_a_value_that_was_measured(self):
        self.assertEqual(percentiles(range(1, 101)), {"p50": 50, "p99": 99, "max": 100})
        self.assertEqual([percentile([7], share) for share in (0.0, 0.5, 1.0)], [7, 7, 7])
        self.assertEqual(percentile([3, 1, 2], 0.5), 2)

    def test_a_goal_is_held_against_the_figure_it_names(self):
        figure = Figure(1.0, 0.4, 60.0)
        self.assertTrue(Held("", figure, 1.0).is_reached)
        self.assertFalse(Held("", figure, 0.999).is_reached)
        self.assertFalse(Held("", figure, 50, of="greatest").is_reached)
        self.assertTrue(Held("", figure, 1.0, at_least=True).is_reached)
        self.assertFalse(Held("", figure, 1.001, at_least=True).is_reached)
        shown = Held("x", figure, 50, "ms", of="greatest", form=".0f").show()
        self.assertEqual(shown, ["x", "1 (0..60) ms", "at most 50 ms, greatest of the rounds", "**missed**"])

    def test_a_page_is_whole_and_nothing_of_it_is_taken_for_markup(self):
        told = Told("a < b", [Table("`x` & y", ["", "n"], [["<i>", "1"]])], ["**no** <b>"], [Held("g", Figure.of([1]), 2)])
        shown = page("T & U", "here", [told])
        self.assertIn("<td>&lt;i&gt;</td>", shown)
        self.assertIn("<b>no</b> &lt;b&gt;", shown)
        self.assertIn("at most 2", shown)
        self.assertNotIn("http", shown)
        self.assertEqual(rich("`a` **b**"), "<code>a</code> <b>b</b>")
        self.assertIn("| g |    1.000 | at most 2 | reached |", told.markdown())


class Plots(unittest.TestCase):
    def parsed(self, shown):
        root = xml.fromstring(shown)
        return lambda tag: list(root.iter(tag))

    def test_axes_end_at_round_numbers(self):
        self.assertEqual([nice(value) for value in (0, 0.3, 1, 1.1, 49, 51, 1000)], [1, 0.5, 1, 2, 50, 100, 1000])
        self.assertEqual([decades([3, 800]), decades([10]), decades([])], [(0, 3), (1, 2), (0, 1)])

    def test_a_bar_is_as_high_as_its_median_and_its_line_as_long_as_the_range(self):
        found = self.parsed(bars("t & u", "ns", [("a", [("x", Figure(50, 25, 100)), ("y", Figure(100, 100, 100))])]))
        low, high = [float(bar.get("height")) for bar in found("rect") if bar.find("title") is not None]
        self.assertAlmostEqual(high / low, 2, places=2)
        line = next(one for one in found("line") if one.get("class") == "range")
        self.assertAlmostEqual(float(line.get("y2")) - float(line.get("y1")), high * 0.75, delta=0.2)

    def test_dots_stand_in_their_order_and_a_zero_has_a_place(self):
        found = self.parsed(spans("t", "us", [("a", {"p50": 0, "p99": 50, "max": 500})]))
        places = [float(dot.get("cx")) for dot in found("circle")]
        self.assertEqual(len(places), 3)
        self.assertEqual(places, sorted(places))

    def test_lines_go_through_all_points_and_marks_stand_where_they_happened(self):
        found = self.parsed(lines("t", "ms", [("a", [(0, 0), (1, 10), (4, 5)])], [(2, "joins")]))
        points = [tuple(map(float, point.split(","))) for point in found("polyline")[0].get("points").split()]
        self.assertEqual(len(points), 3)
        mark = next(one for one in found("line") if one.get("class") == "mark")
        self.assertAlmostEqual(float(mark.get("x1")), (points[0][0] + points[2][0]) / 2, delta=0.1)
        self.assertIn("joins", [one.text for one in found("text")])


class Sections(unittest.TestCase):
    def test_cost_is_held_against_the_same_round_without_replicas(self):
        rounds = [cost_round(100, 110), cost_round(200, 202), cost_round(100, 103)]
        self.assertEqual(cost.to_none(rounds, "remora shm", "pipelined", 3), Figure(1.03, 1.01, 1.1))
        # 10, 2 and 3 ns more a SET, 100 SETs, 1500 bytes.
        self.assertEqual(cost.per_byte(rounds, "remora shm", "pipelined", 3), Figure(0.2, 200 / 1500, 1000 / 1500))
        self.assertEqual(cost.taken_share(rounds, "remora shm", "pipelined", 3).median, 0.5)
        told = cost.tell({"counts": [0, 3], "goals_of": ["remora shm"], "rounds": rounds})
        self.assertEqual([one.is_reached for one in told.goals], [False, True, True])
        self.assertEqual(told.tables[0].rows[1][2], "1.030 (1.010..1.100)")

    def test_a_copy_that_never_came_to_its_end_is_said_and_not_averaged(self):
        one = lambda seconds: {"remora shm": {"idle": {"seconds": seconds}}}
        results = {"mebibytes": 1000, "wait_seconds": 60, "rounds": [one(2.0), one(None), one(4.0)]}
        self.assertEqual(copying.seconds_of(results["rounds"], "remora shm", "idle"), (Figure.of([2, 4]), 1))
        self.assertEqual(copying.show_copy(results, "remora shm", "idle")[0], "3.00 (2.00..4.00), 1 not within 60 s")
        results["rounds"] = [one(None)]
        self.assertEqual(copying.show_copy(results, "remora shm", "idle"), ["1 not within 60 s", ""])

    def test_what_joining_does_is_held_against_the_window_before(self):
        of = lambda p99, worst: {"p99_ms": p99, "max_ms": worst}
        rounds = [{"remora shm": {"before": of(1.0, 10.0), "during": of(1.2, 14.0)}}]
        ratio, worst = copying.goals(rounds, "remora shm")
        self.assertEqual((ratio.figure.median, ratio.is_reached), (1.2, False))
        self.assertEqual((worst.figure.median, worst.is_reached), (4.0, True))

    def test_acks_are_held_against_none_and_against_the_lag(self):
        of = lambda rate, p50: {"requests_per_second": rate, "p50_us": p50, "p99_us": p50, "max_us": p50}
        one = lambda over: {"remora shm": {"0": {**of(100, 10), "lag": {"over_us": over}}, "1": of(60, 40)}}
        throughput, latency = acks.goals([one(20), one(10), one(5)], "remora shm")
        self.assertEqual((throughput.figure.median, throughput.is_reached), (0.6, True))
        self.assertEqual((latency.figure, latency.is_reached), (Figure(3, 1.5, 6), True))
        self.assertEqual(len(acks.goals([one(20), one(-1)], "remora shm")), 1, "nothing to hold it against")

    def test_an_answer_to_sets_and_a_wait_is_whole_at_the_waits_end(self):
        sets = stamps.set_answer(False) * 2
        self.assertTrue(acks.is_complete(sets, sets, 0))
        for cut in (sets, sets + b":", sets + b":1", sets + b":1\r"):
            self.assertFalse(acks.is_complete(cut, sets, 1), cut)
        self.assertTrue(acks.is_complete(sets + b":1\r\n", sets, 1))
        acks.require_replicas(sets + b":1\r\n", 1)
        with self.assertRaises(acks.Unable):
            acks.require_replicas(sets + b":0\r\n", 1)

    def test_the_slowest_promotion_is_the_one_that_counts(self):
        one = lambda accepted: {"remora shm": {**dict.fromkeys(promote.KEYS, 10.0), "accepted_ms": accepted}}
        told = promote.tell({"goals_of": ["remora shm"], "rounds": [one(10), one(20), one(51)]})
        self.assertEqual([goal.is_reached for goal in told.goals], [False, True])

    def test_what_a_replica_kept_up_with_is_a_share_of_what_was_written(self):
        self.assertEqual(saturated.kept({"taken_bytes": 30, "written_bytes": 40}), 0.75)


class NeverThere:
    """A connection to a server that stores everything and whose replica has nothing."""

    def __init__(self, _server):
        self.asked = b""

    def sendall(self, request):
        self.asked = request or self.asked

    def recv(self, _bytes):
        return b"END\r\n" if self.asked.startswith(b"get") else b"STORED\r\n"

    def close(self):
        pass


class Stamps(unittest.TestCase):
    def test_stamps_that_nobody_sees_take_a_bounded_time_altogether(self):
        family = types.SimpleNamespace(is_remora=True)
        bounds = {"connect": NeverThere, "SEEN_SECONDS_MAX": 0.01, "STAMPING_SECONDS_MAX": 0.05}
        with mock.patch.multiple(stamps, **bounds):
            late_us, missing = stamps.stamps(family, None, None, 1000, 0)
        self.assertEqual(late_us, [])
        self.assertLess(missing, 1000, "no further stamp is sent after the bound")

    def test_a_stamp_comes_back_in_both_protocols(self):
        stamp = b"%0*d" % (stamps.STAMP_BYTES, 12345)
        for is_remora, answer, none in (
            (True, b"VALUE stamp 0 20\r\n%b\r\nEND\r\n" % stamp, b"END\r\n"),
            (False, b"$20\r\n%b\r\n" % stamp, b"$-1\r\n"),
        ):
            self.assertEqual(stamps.stamp_of(is_remora, answer), 12345)
            self.assertIsNone(stamps.stamp_of(is_remora, none))
            self.assertTrue(stamps.is_whole(is_remora, none))
            cut_whole = [cut for cut in range(len(answer)) if stamps.is_whole(is_remora, answer[:cut])]
            self.assertEqual(cut_whole, [], answer)
            self.assertTrue(stamps.is_whole(is_remora, answer))

    def test_no_stall_is_lost_between_the_points_of_a_plot(self):
        points = [(0.01, 1.0), (0.02, 9.0), (0.06, 2.0), (0.26, 3.0)]
        shown = stamps.worst_of_slots(points, 0.05)
        self.assertEqual([round(seconds, 3) for seconds, _ in shown], [0.025, 0.075, 0.275])
        self.assertEqual([worst for _, worst in shown], [9.0, 2.0, 3.0])


if __name__ == "__main__":
    unittest.main()
