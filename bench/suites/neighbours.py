"""A quiet client's latency next to hostile neighbours, against Debian's C xenstored.

Every daemon runs throughout and they take turns, kind by kind, round by round. Each measurement has its own neighbour and
its own quiet client, a process with the first claim on a CPU, so that what is measured is the service's patience and not
the scheduler's with the load generator."""

import json
import statistics
import subprocess

from . import common, product, xenstore

KINDS = ("spin", "reads", "writes", "directory", "deep", "subtree", "watches", "transactions", "giant-transactions", "never-reads", "half", "storm")
TARGET = 3.0  # times the p99 alone
OURS, C = "bulkhead", "xenstored (C)"
# Where the C xenstored takes minutes to build what the neighbour wants, it gets a smaller one.
SMALLER = {(C, "directory"): 10000}


def add_arguments(parser):
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each figure (default 3)")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"default {','.join(KINDS)}")
    parser.add_argument("--period-us", type=int, default=1000, help="between the quiet client's requests (default 1000)")
    parser.add_argument("--ours-only", action="store_true", help="leave the C xenstored out")


def measure(arguments, socket, kind, size):
    command = [common.program(arguments.build, "xs-neighbour"), "--socket", socket, "--neighbour", kind, "--size", str(size),
               "--seconds", str(arguments.seconds), "--period-us", str(arguments.period_us)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return {"failed": done.stderr.strip()}
    return json.loads(done.stdout)


def restored(arguments, socket):
    """Takes away what the neighbour made, so that the next one meets the same store."""
    subprocess.run([common.program(arguments.build, "xs-neighbour"), "--socket", socket, "--clean"], check=True)


def run(arguments):
    report = common.Report("neighbours: p99 of a quiet client (us)",
                           ["neighbour", OURS, "p50", "p99.9", "max", "times alone", "neighbour's requests/s", C, "times alone",
                            "target"])
    with common.Folder() as folder:
        (folder / "product").mkdir()
        c_daemon, c_socket = xenstore.stock(arguments.build, folder, "xenstored", ["--no-fork"])
        with c_daemon, product.Product(arguments.build, folder / "product") as ours:
            sockets = {OURS: ours.socket} if arguments.ours_only else {OURS: ours.socket, C: c_socket}
            results = {(kind, name): [] for kind in ("none", *arguments.kinds.split(",")) for name in sockets}
            for _ in range(arguments.rounds):
                for kind, name in results:
                    results[kind, name].append(measure(arguments, sockets[name], kind, SMALLER.get((name, kind), 0)))
                    restored(arguments, sockets[name])
    tell(arguments, report, results)
    return report


def median(results, key):
    values = [result[key] for result in results if key in result]
    return statistics.median(values) if values else float("inf")


def tell(arguments, report, results):
    first_class = all(result.get("first_class", True) for values in results.values() for result in values)
    for (kind, name), values in results.items():
        report.figures[f"{kind}, {name}"] = values
        for value in values:
            if "failed" in value:
                report.notes.append(f"{name} next to {kind}: {value['failed']}")
    for kind in dict.fromkeys(kind for kind, _ in results):
        ours = results[kind, OURS]
        times = median(ours, "p99_us") / median(results["none", OURS], "p99_us")
        verdict = "" if kind in ("none", "spin") else report.at_most(f"p99 next to {kind} / alone", times, TARGET)
        peer = results.get((kind, C), [])
        peer_p99 = median(peer, "p99_us")
        peer_times = peer_p99 / median(results.get(("none", C), []), "p99_us") if peer else float("inf")
        report.row(kind, *(f"{median(ours, key):,.0f}" for key in ("p99_us", "p50_us", "p999_us", "max_us")), f"{times:.2f}",
                   f"{median(ours, 'neighbour_operations') / arguments.seconds:,.0f}" if kind != "none" else "",
                   f"{peer_p99:,.0f}" if peer else "", f"{peer_times:.2f}" if peer else "", verdict)
    report.notes.append(f"Medians of {arguments.rounds} rounds of {arguments.seconds:g} s. The quiet client sends a request every "
                        f"{arguments.period_us} us, a write and a read by turns, one at a time; one that had to wait for its "
                        "predecessor's answer counts from when it was due. It " +
                        ("runs at real-time priority" if first_class else "has ORDINARY priority (not root)") +
                        ", the neighbour at nice 10, on the CPUs that the service uses, too.")
