"""A long run of checking load with faults at random: no anomaly, and memory and descriptors flat at the end."""

import collections
import json
import os
import random
import signal
import subprocess
import time

from . import common, footprint, product

CLIENTS = "readers=2,writers=4,watchers=2,movers=4,models=2"
FEWEST_FAULTS = 5  # a short run on a busy machine goes on until then
PATIENCE = 60  # seconds for anything to be complete again, however busy the machine

# (fault, argument, how long, ends its instance). Weights: the order they are drawn in is uniform.
FAULTS = [("crash", "", "10s", True), ("abort", "", "10s", True), ("exit", "", "10s", True), ("hang", "", "30s", True),
          ("spin", "", "30s", True), ("deadlock", "", "30s", True), ("drop-heartbeat", "", "2s", False),
          ("slow", "2ms", "1s", False), ("leak", "10MiB", "1s", False), ("fdleak", "", "500ms", False)]
LEAKS = {"leak", "fdleak"}
# What is not a fault of an instance.
OTHERS = ["hand over", "hand over", "kill both", "kill edge", "crash-at"]


# Waiting for the next attempt is not what is tested here.
SETTINGS = (*product.CAMPAIGN, "defaults.restart.backoff_max=50ms", "defaults.restart.budget=1000000")


def add_arguments(parser):
    parser.add_argument("--minutes", type=float, default=30, help="default 30; below 5 only gross growth is judged")
    parser.add_argument("--clients", default=CLIENTS, help=f"default {CLIENTS}")
    parser.add_argument("--seed", type=int, default=1, help="of faults and pauses")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between faults at most (default 1)")
    parser.add_argument("--interval", type=float, help="seconds between samples (default 3, less in a short run)")


def pid_of(component, target):
    return component["active_pid" if target == "active" else "standby_pid"]


class Soak:
    def __init__(self, ours, arguments):
        self.ours = ours
        self.random = random.Random(arguments.seed)
        self.pause = arguments.pause
        self.seconds = arguments.minutes * 60
        self.interval = arguments.interval or min(3.0, self.seconds / 100)
        self.series = footprint.Series()
        self.done = collections.Counter()
        self.leaky = set()  # instances whose growth was ordered: not judged
        self.begin = time.monotonic()
        self.next_sample = self.begin
        self.points = [point for kind in self.ask("faults", "--kinds", "xenstore")["kinds"] if kind["kind"] == "crash-at"
                       for point in kind["arguments"] if not point.startswith(("takeover-", "custody-", "snapshot-"))]

    def ask(self, *command):
        answer = subprocess.run(self.ours.cli(*command, "-o", "json"), capture_output=True, text=True)
        return json.loads(answer.stdout) if answer.returncode == 0 else {}

    def components(self):
        """By name; empty while the API does not answer."""
        return {component["name"]: component for component in self.ask("status").get("components", [])}

    def elapsed(self):
        return time.monotonic() - self.begin

    def sample(self):
        if time.monotonic() < self.next_sample:
            return
        components = self.components()
        xenstore, edge = components.get("xenstore"), components.get("api")
        if not xenstore or not edge:
            return  # nobody answers just now: as soon as somebody does
        self.next_sample = time.monotonic() + self.interval
        core = self.ours.process.child.pid
        at = self.elapsed()
        pids = {"core": core, "edge": edge["active_pid"], "active": xenstore["active_pid"], "standby": xenstore["standby_pid"]}
        figures = {role: footprint.of_process(pid) for role, pid in pids.items() if pid not in self.leaky}
        for role, held in figures.items():
            self.series.add(at, role, held)
        if len(figures) == len(pids) and all(figures.values()):
            self.series.add(at, "all", {"together": sum(held["pss"] for held in figures.values())})
        self.series.add(at, "core", {"custody": footprint.segments(core)})

    def wait(self, what, condition):
        """Samples on while it waits."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.sample()
            components = self.components()
            if components and condition(components):
                return components
            if self.ours.process.child.poll() is not None:
                raise common.Failure(f"bulkheadd ended during: {what}\n{self.ours.process.tail()}")
            time.sleep(0.02)
        raise common.Failure(f"{what}: not within {PATIENCE} s; {json.dumps(self.components().get('xenstore'))}")

    def complete(self):
        return self.wait("complete again after a fault", lambda all_of_them: product.is_ready(all_of_them["xenstore"])
                         and all_of_them["api"]["ready"])

    def order(self, *command):
        """An order may be refused because the service is not as it was a moment ago; then nothing was done."""
        return subprocess.run(self.ours.cli(*command), capture_output=True, text=True).returncode == 0

    def inject(self, fault, argument, lasts, ends, target, before):
        victim = pid_of(before["xenstore"], target)
        if fault in LEAKS:
            self.leaky.add(victim)
        command = ["inject", "xenstore", fault, *([argument] if argument else []), "--for", lasts]
        if not self.order(*command, *(["--standby"] if target == "standby" else [])):
            self.done["refused"] += 1
            return
        self.done[f"{fault} ({target})"] += 1
        gone = lambda now: victim not in (now["xenstore"]["active_pid"], now["xenstore"]["standby_pid"])  # noqa: E731
        over = lambda now: gone(now) or not self.ask("faults", "xenstore").get("faults", [None])  # noqa: E731
        self.wait(f"the end of {fault} in the {target}", gone if ends else over)

    def strike(self):
        before = self.complete()
        kind = self.random.choice([*FAULTS, *OTHERS])
        target = self.random.choice(["active", "active", "standby"])
        xenstore = before["xenstore"]
        if isinstance(kind, tuple):
            self.inject(*kind, target, before)
        elif kind == "crash-at":
            self.inject("crash-at", self.random.choice(self.points), "3s", False, "active", before)  # not every point is passed
        elif kind == "hand over":
            self.done[kind if self.order("handover", "xenstore") else "refused"] += 1
        elif kind == "kill both":
            self.kill(xenstore["standby_pid"], xenstore["active_pid"])
            self.done[kind] += 1
            self.wait("a new owner", lambda now: now["xenstore"]["incarnation"] > xenstore["incarnation"])
        else:
            edge = before["api"]["active_pid"]
            self.kill(edge)
            self.done[kind] += 1
            self.wait("another edge", lambda now: now["api"]["active_pid"] != edge)

    @staticmethod
    def kill(*pids):
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def faults(self):
        return sum(number for kind, number in self.done.items() if kind != "refused")

    def run(self, load):
        while self.elapsed() < self.seconds or self.faults() < FEWEST_FAULTS:
            if load.child.poll() is not None:
                raise common.Failure(f"xs-load ended early\n{load.tail()}")
            self.strike()
            until = time.monotonic() + self.random.uniform(0, self.pause)
            while time.monotonic() < until:
                self.sample()
                time.sleep(0.02)
        return self.complete()


def shown(figure, value):
    return f"{value / footprint.MIB:.1f} MiB" if figure not in ("descriptors", "threads") else str(value)


def tabulate(report, soak, seconds):
    order = ["core", "edge", "active", "standby", "all"]
    for growth in sorted(soak.series.growth(seconds), key=lambda growth: order.index(growth.role)):
        report.row(f"{growth.role}: {growth.figure}", shown(growth.figure, growth.early), shown(growth.figure, growth.late),
                   shown(growth.figure, growth.most), growth.number,
                   judged(report, growth, seconds))


def judged(report, growth, seconds):
    # Which pages of the shared segments an instance has touched depends on how old it is: what it holds itself, and the
    # segments, are judged.
    if growth.figure in ("rss", "pss") and growth.role in ("active", "standby"):
        return ""
    what = f"{growth.role}: {growth.figure} late"
    if not growth.measured and seconds < footprint.LONG_SECONDS and growth.role != "core":
        return "not seen at both ends"
    if not growth.measured:
        return report.at_least(f"{what}: samples early and late in {seconds:.0f} s", 0, 1)
    verdict = report.at_most(what, growth.late, growth.bound)
    return f"<= {shown(growth.figure, int(growth.bound))}: {verdict.rsplit(': ', 1)[1]}"


def run_load(ours, arguments, folder):
    started, enough, result = folder / "started", folder / "enough", folder / "load.json"
    command = [common.program(arguments.build, "xs-load"), "--socket", ours.socket, "--clients", arguments.clients,
               "--until-file", str(enough), "--started-file", str(started), "--json", str(result)]
    with common.Process(command, folder / "xs-load.log") as load:
        common.wait_for("xs-load", started.exists, process=load)
        soak = Soak(ours, arguments)
        now = soak.run(load)
        seconds = soak.elapsed()
        enough.touch()
        common.wait_for("the end of xs-load", lambda: load.child.poll() is not None, seconds=PATIENCE)
        if not result.exists():
            raise common.Failure(f"xs-load failed\n{load.tail()}")
    return soak, json.loads(result.read_text()), now["xenstore"], seconds


def run(arguments):
    report = common.Report("soak: checking load and faults at random",
                           ["figure", "early", "late", "most", "samples", "target"])
    with common.Folder() as folder, product.Product(arguments.build, folder, SETTINGS) as ours:
        soak, load, component, seconds = run_load(ours, arguments, folder)
        incidents = soak.ask("incidents", "--limit", "500").get("incidents", [])
    anomalies = load["anomalies"]
    report.row("faults", "", "", soak.faults(), "", report.at_least("faults", soak.faults(), FEWEST_FAULTS))
    report.row("take-overs", "", "", component["incarnation"] - 1, "", "")
    report.row("replies checked", "", "", f"{load['replies']:,}", "", report.at_least("replies", load["replies"], 1))
    report.row("anomalies", "", "", anomalies["total"], "", report.at_most("anomalies", anomalies["total"], 0))
    lost = sum(incident["lost"] for incident in incidents)
    report.row("lost, by the last incidents' own account", "", "", lost, len(incidents),
               report.at_most("lost, by the incidents", lost, 0))
    tabulate(report, soak, seconds)
    parts = "first and last fifth" if seconds >= footprint.LONG_SECONDS else "halves"
    report.notes += [f"Early and late: medians of the {parts} of the run, without its first tenth.",
                     f"{seconds:.0f} s; load: {arguments.clients}; longest silence {load['longest_silence_us'] / 1e3:.1f} ms.",
                     "Faults: " + ", ".join(f"{kind} {number}" for kind, number in sorted(soak.done.items())) + ".",
                     *load["described"]]
    report.figures = {"load": load, "faults": soak.done,
                      "samples": {f"{role}: {figure}": samples for (role, figure), samples in soak.series.samples.items()}}
    return report
