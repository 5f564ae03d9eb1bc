#!/usr/bin/env python3
"""The soak's verdict finds what grows, in made-up series and in a real process that leaks."""

import pathlib
import subprocess
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from suites import footprint  # noqa: E402

LONG = 1800
MIB = footprint.MIB

# Grows by one step for each line it reads, and says when it has.
LEAKER = """
import os, sys
held = []
for line in sys.stdin:
    if line.strip() == "memory": held.append(b"x" * (1 << 20))
    if line.strip() == "descriptors": held.append(open("/dev/null"))
    if line.strip() == "segments": fd = os.memfd_create("s"); os.write(fd, bytes(1 << 20)); held.append(fd)
    print("done", flush=True)
"""


def judge(figure, values, seconds=LONG):
    series = footprint.Series()
    for number, value in enumerate(values):
        series.add(number * seconds / len(values), "core", {figure: value})
    return series.growth(seconds)[0]


class Verdict(unittest.TestCase):
    def test_flat_is_flat(self):
        for figure in footprint.FIGURES:
            self.assertTrue(judge(figure, [100 * MIB] * 100).flat(), figure)

    def test_slow_growth_is_found(self):
        self.assertFalse(judge("private", [10 * MIB + i * MIB // 20 for i in range(100)]).flat())
        self.assertFalse(judge("descriptors", [40 + i // 20 for i in range(100)]).flat())
        self.assertFalse(judge("threads", [1 + i // 20 for i in range(100)]).flat())
        self.assertFalse(judge("custody", [64 * MIB + i * MIB for i in range(100)]).flat())

    def test_peaks_are_not_growth(self):
        self.assertTrue(judge("private", ([10 * MIB] * 9 + [90 * MIB]) * 10).flat())

    def test_warm_up_does_not_count(self):
        self.assertTrue(judge("private", [i * 3 * MIB for i in range(10)] + [30 * MIB] * 90).flat())

    def test_no_samples_at_an_end_is_no_pass(self):
        series = footprint.Series()
        series.add(LONG / 2, "core", {"private": MIB})
        self.assertFalse(series.growth(LONG)[0].flat())

    def test_short_runs_find_gross_growth(self):
        self.assertTrue(judge("private", [10 * MIB + i * MIB // 20 for i in range(100)], 20).flat())
        self.assertFalse(judge("private", [10 * MIB + 2 * i * MIB for i in range(100)], 20).flat())
        self.assertFalse(judge("descriptors", [40 + 2 * i for i in range(100)], 20).flat())


class RealProcess(unittest.TestCase):
    def setUp(self):
        self.child = subprocess.Popen([sys.executable, "-c", LEAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tearDown(self):
        self.child.communicate()

    def leaks(self, what, steps, figure, measure):
        series = footprint.Series()
        for step in range(steps):
            self.child.stdin.write(what + "\n")
            self.child.stdin.flush()
            self.assertEqual(self.child.stdout.readline(), "done\n")
            series.add(step * LONG / steps, "core", measure(self.child.pid))
        return not next(growth for growth in series.growth(LONG) if growth.figure == figure).flat()

    def test_memory(self):
        self.assertTrue(self.leaks("memory", 40, "private", footprint.of_process))

    def test_descriptors(self):
        self.assertTrue(self.leaks("descriptors", 40, "descriptors", footprint.of_process))

    def test_segments(self):
        self.assertTrue(self.leaks("segments", 40, "custody", lambda pid: {"custody": footprint.segments(pid)}))

    def test_nothing(self):
        for figure in ("rss", "private", "descriptors", "threads"):
            self.assertFalse(self.leaks("nothing", 40, figure, footprint.of_process), figure)

    def test_a_dead_process_gives_no_sample(self):
        self.child.communicate()
        self.assertIsNone(footprint.of_process(self.child.pid))


if __name__ == "__main__":
    unittest.main()
