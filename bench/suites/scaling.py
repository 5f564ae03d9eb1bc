"""How cost, memory and recovery grow with nodes and clients; what the core costs when nothing happens.

Cost is CPU time of the serving process per operation, which other load on the machine changes little."""

import contextlib
import json
import pathlib
import statistics
import subprocess
import time

from . import common, product, xenstore

GROWTH = 1.5
CORE_MIB = 15
CORE_PERCENT = 0.5
OURS, C = "bulkhead", "xenstored (C)"
FEW, MANY = 1000, 1000000
C_MANY = 100000  # more takes it minutes to fill
PARTS = ("restart", "nodes", "clients", "memory", "core")


def add_arguments(parser):
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each figure (default 3)")
    parser.add_argument("--kills", type=int, default=100, help="of our service, with each size of the tree (default 100)")
    parser.add_argument("--nodes", type=int, default=MANY, help=f"of the big tree (default {MANY})")
    parser.add_argument("--idle-seconds", type=float, default=20.0, help="how long the core is watched (default 20)")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"default {','.join(PARTS)}")


def bench(arguments, socket, *options):
    done = subprocess.run([common.program(arguments.build, "xs-bench"), "--socket", socket, *map(str, options)],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise common.Failure(f"xs-bench {' '.join(map(str, options))}: {done.stderr.strip()}")
    return json.loads(done.stdout) if done.stdout else None


def memory(pid):
    """(anonymous, shared) resident KiB."""
    fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]), int(fields["RssShmem"].split()[0])


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


@contextlib.contextmanager
def servers(arguments):
    """Fresh ones: name -> (socket, process that serves, everything about ours)."""
    with common.Folder() as folder:
        (folder / "product").mkdir()
        daemon, socket = xenstore.stock(arguments.build, folder, "xenstored", ["--no-fork"])
        with daemon, product.Product(arguments.build, folder / "product") as ours:
            yield {OURS: (ours.socket, ours.component()["active_pid"]), C: (socket, daemon.child.pid)}, ours


def restart(arguments, report):
    answers = {}
    for nodes in (100, 100000):
        with common.Folder() as folder, product.Product(arguments.build, folder, product.CAMPAIGN) as ours:
            bench(arguments, ours.socket, "--populate-only", "--nodes", nodes)
            load = product.run_load(ours, "writers=0", arguments.kills, lambda: time.sleep(0.02))
        if load["anomalies"]["total"] > 0 or load["answered"] != load["marks"]:
            raise common.Failure(f"our service failed its clients: {load['described'] or 'kills without an answer'}")
        answers[nodes] = load["answer_us"]
    report.figures["restart"] = answers
    few, many = answers[100]["p50"], answers[100000]["p50"]
    report.row("crash to first right answer, median", "100 nodes -> 100,000", f"{few / 1e3:.2f} ms", f"{many / 1e3:.2f} ms",
               f"{many / few:.2f}", "", report.at_most("restart with 100,000 nodes / 100", many / few, GROWTH))


def cost(arguments, report, what, shapes, fresh):
    """shapes: {label: options}, smaller first. The same servers serve both, by turns, unless `fresh`."""
    results = {(operation, label, name): [] for operation in ("read", "write") for label in shapes for name in (OURS, C)}
    for group in ([[label] for label in shapes] if fresh else [list(shapes)]):
        with servers(arguments) as (found, _):
            options = {(label, name): [min(option, C_MANY) if name == C and isinstance(option, int) else option
                                       for option in shapes[label]] for label in group for name in found}
            for name, (socket, _) in found.items():
                bench(arguments, socket, "--populate-only", *options[group[0], name])
            for _ in range(arguments.rounds):
                for operation in ("read", "write"):
                    for label in group:
                        for name, (socket, pid) in found.items():
                            results[operation, label, name].append(
                                bench(arguments, socket, "--populated", "--operation", operation, "--server", pid, "--seconds",
                                      arguments.seconds, *options[label, name]))
    small, big = shapes
    value = {key: statistics.median(result["server_cpu_ns"] for result in values) for key, values in results.items()}
    for operation in ("read", "write"):
        report.figures[f"{operation}, {what}"] = {f"{label}, {name}": results[operation, label, name]
                                                  for label in shapes for name in (OURS, C)}
        ours, peer = ([value[operation, label, name] for label in (small, big)] for name in (OURS, C))
        report.row(f"CPU time per {operation}", f"{small} -> {big}", f"{ours[0]:,.0f} ns", f"{ours[1]:,.0f} ns",
                   f"{ours[1] / ours[0]:.2f}", f"{peer[0]:,.0f} -> {peer[1]:,.0f} ns, {peer[1] / peer[0]:.2f}",
                   report.at_most(f"{operation}, {small} -> {big}", ours[1] / ours[0], GROWTH))


def nodes(arguments, report):
    shape = ("--clients", 16, "--depth", 8)
    cost(arguments, report, "nodes", {f"{FEW:,} nodes": (*shape, "--nodes", FEW),
                                      f"{arguments.nodes:,} nodes": (*shape, "--nodes", arguments.nodes)}, True)


def clients(arguments, report):
    shape = ("--clients", 10, "--depth", 8)
    cost(arguments, report, "idle clients", {"10 clients": shape, "10 and 990 idle": (*shape, "--idle", 990)}, False)
    cost(arguments, report, "active clients", {"10 clients x 1": ("--clients", 10, "--depth", 1),
                                               "1,000 clients x 1": ("--clients", 1000, "--depth", 1)}, False)


def memory_per_node(arguments, report):
    leaves = 1724 * 40  # and their directories: 99,999 nodes
    with servers(arguments) as (found, ours):
        component = ours.component()
        watched = {OURS: component["active_pid"], "standby": component["standby_pid"], C: found[C][1]}
        before = {name: memory(pid) for name, pid in watched.items()}
        for name, (socket, _) in found.items():
            bench(arguments, socket, "--populate-only", "--tree", "domains", "--nodes", leaves)
        time.sleep(2)  # the standby follows, and writes a snapshot if the journal asks for one
        after = {name: memory(pid) for name, pid in watched.items()}
    total = domains_nodes(leaves)
    grown = {name: [(b - a) * 1024 / total for a, b in zip(before[name], after[name])] for name in watched}
    report.figures["memory"] = {"nodes": total, "before, KiB (anonymous, shared)": before, "after": after}
    report.row("memory per node, active instance", f"{total:,} nodes", "", f"{grown[OURS][0]:,.0f} B", "",
               f"{sum(grown[C]):,.0f} B", report.at_most("memory per node, ours / C", grown[OURS][0] / sum(grown[C]), 1.0))
    report.row("memory per node, standby", "", "", f"{grown['standby'][0]:,.0f} B", "", "", "")
    report.row("memory per node, custody (journal and snapshots, shared)", "", "", f"{grown[OURS][1]:,.0f} B", "", "", "")


def domains_nodes(leaves):
    """Nodes that populate_domains() makes for so many leaves, directories included: see bench/population.cpp."""
    per_domain, directories, common_ones = 40, 18, 7
    return leaves + leaves // per_domain * directories + common_ones


def core(arguments, report):
    with common.Folder() as folder, product.Product(arguments.build, folder) as ours:
        pid = ours.process.child.pid
        time.sleep(3)  # starting is over
        begin, used = time.monotonic(), cpu_seconds(pid)
        time.sleep(arguments.idle_seconds)
        percent = 100 * (cpu_seconds(pid) - used) / (time.monotonic() - begin)
        mib = sum(memory(pid)) / 1024
        status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
        resident = int(status["VmRSS"].split()[0]) / 1024
    report.figures["core"] = {"percent": percent, "resident_mib": resident, "anonymous_and_shared_mib": mib}
    report.row("core, resident", "idle host", "", f"{resident:.1f} MiB", "", "", report.at_most("core, MiB", resident, CORE_MIB))
    report.row("core, CPU", "idle host", "", f"{percent:.2f} %", "", "", report.at_most("core, % of a CPU", percent, CORE_PERCENT))


def run(arguments):
    report = common.Report("scaling: what grows with nodes and clients",
                           ["figure", "from -> to", "small", "large", "growth", C, "target"])
    known = {"restart": restart, "nodes": nodes, "clients": clients, "memory": memory_per_node, "core": core}
    for part in arguments.parts.split(","):
        known[part](arguments, report)
    report.notes.append(f"The C xenstored's big tree has {C_MANY:,} nodes.")
    report.notes.append(f"Cost: CPU time of the serving process per operation, 16 clients x 8 in flight unless said otherwise, "
                        f"medians of {arguments.rounds} rounds of {arguments.seconds:g} s, the servers taking turns. "
                        f"Restart: medians of {arguments.kills} kills.")
    return report
