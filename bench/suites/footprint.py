"""What processes hold over time: memory, descriptors, threads, and segments in custody; and whether it grew."""

import os
import statistics

MIB = 1 << 20

# What a figure may grow by in a long run: a factor, and then an absolute amount.
MEMORY = (1.10, MIB)
FEW = (1.0, 2)
FIGURES = {"rss": MEMORY, "pss": MEMORY, "private": MEMORY, "descriptors": FEW, "threads": FEW, "custody": (1.05, MIB),
           "together": (1.25, 4 * MIB)}  # how much of the segments is mapped depends on how old the instances are

# A run shorter than this cannot tell slow growth from settling: only gross growth is looked for.
LONG_SECONDS = 300
GROSS = {"rss": (1.5, 16 * MIB), "pss": (1.5, 16 * MIB), "private": (1.5, 16 * MIB), "descriptors": (1.5, 16), "threads": (1, 2),
         "custody": (3, 64 * MIB), "together": (3, 64 * MIB)}


def of_process(pid):
    """The figures of a process now; None if it is gone, or went while it was looked at."""
    try:
        sizes = {}
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            for line in lines:
                fields = line.split()
                if len(fields) == 3 and fields[2] == "kB":
                    sizes[fields[0].rstrip(":")] = int(fields[1]) * 1024
        with open(f"/proc/{pid}/status") as lines:
            threads = next(int(line.split()[1]) for line in lines if line.startswith("Threads:"))
        # What is anonymous and not shared is the process's own: shared segments are counted as custody.
        return {"rss": sizes["Rss"], "pss": sizes["Pss"], "private": sizes["Anonymous"], "threads": threads,
                "descriptors": len(os.listdir(f"/proc/{pid}/fd"))}
    except (OSError, KeyError, StopIteration):
        return None


def segments(pid):
    """Bytes of memory behind the memfds that a process holds, each counted once."""
    held = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        try:
            if os.readlink(path).startswith("/memfd:"):
                info = os.stat(path)
                held[info.st_ino] = info.st_blocks * 512
        except OSError:
            continue  # closed meanwhile
    return sum(held.values())


class Series:
    """Samples of every role's figures, with their times (seconds since the beginning)."""

    def __init__(self):
        self.samples = {}

    def add(self, at, role, figures):
        for figure, value in (figures or {}).items():
            self.samples.setdefault((role, figure), []).append((at, value))

    def growth(self, seconds):
        """One Growth for each figure of each role, over a run that took so long."""
        return [Growth(role, figure, samples, seconds) for (role, figure), samples in self.samples.items()]


class Growth:
    """The medians of the first fifth after the warm-up (a tenth of the run) and of the last fifth, compared; in a short
    run, which has few samples, of the halves."""

    def __init__(self, role, figure, samples, seconds):
        self.role = role
        self.figure = figure
        warm = seconds / 10
        part = (seconds - warm) / (5 if seconds >= LONG_SECONDS else 2)
        early = [value for at, value in samples if warm <= at < warm + part]
        late = [value for at, value in samples if at >= seconds - part]
        self.number = len(samples)
        # Too few to speak of: that is a failure of the measurement, not a pass.
        self.measured = bool(early) and bool(late)
        self.early = statistics.median_low(early) if early else 0
        self.late = statistics.median_low(late) if late else 0
        self.most = max(value for _, value in samples)
        factor, absolute = (FIGURES if seconds >= LONG_SECONDS else GROSS)[figure]
        self.bound = self.early * factor + absolute

    def flat(self):
        return self.measured and self.late <= self.bound
