"""Throughput and latency against Debian's xenstored and oxenstored.

Every daemon runs throughout; the peers take turns, round by round, so that what the machine does meanwhile falls on all."""

import json
import statistics
import subprocess

from . import common, product

SHAPES = ((1, 1), (1, 32), (16, 8), (64, 4))
OPERATIONS = ("read", "write", "mixed", "transaction", "directory")
CHILDREN = 10000  # of the directory that is read whole, in parts, as libxenstore does it
DIRECTORY_SHAPES = ((1, 1),)
TARGETS = {("directory", 1, 1): 1.0}
for operation, target in (("read", 2.0), ("write", 2.0), ("transaction", 1.5)):
    TARGETS |= {(operation, 1, 1): 1.0, (operation, 16, 8): target, (operation, 64, 4): target}
OURS, C, OCAML = "bulkhead", "xenstored (C)", "oxenstored"


def add_arguments(parser):
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each figure (default 3)")
    parser.add_argument("--operations", default=",".join(OPERATIONS), help=f"default {','.join(OPERATIONS)}")
    parser.add_argument("--shapes", default=",".join(f"{c}x{d}" for c, d in SHAPES), help="clients x in flight")


def stock(build, folder, name, arguments):
    """A stock daemon on its own socket, fooled by the preload library into starting without Xen."""
    binary = common.PEERS / "usr/lib/xen-4.17/bin" / name
    if not binary.exists():
        raise common.Failure(f"{binary} is missing: run scripts/deps")
    rundir = folder / name
    rundir.mkdir()
    environment = {"XENSTORED_RUNDIR": str(rundir), "LD_PRELOAD": str(build / "lib/libnohyp.so")}
    daemon = common.Process([str(binary), *arguments], folder / f"{name}.log", environment)
    common.wait_for(name, (rundir / "socket").exists, process=daemon)
    return daemon, str(rundir / "socket")


def measure(build, socket, operation, clients, depth, seconds):
    done = subprocess.run([common.program(build, "xs-bench"), "--socket", socket, "--operation", operation, "--clients",
                           str(clients), "--depth", str(depth), "--seconds", str(seconds),
                           *(("--nodes", str(CHILDREN)) if operation == "directory" else ())],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise common.Failure(f"{operation} {clients}x{depth} on {socket}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def medians(results):
    return {key: statistics.median(result[key] for result in results) for key in ("per_second", "p50_us", "p99_us")}


def run(arguments):
    report = common.Report("xenstore: throughput (operations per second) and latency",
                           ["operation", "clients x in flight", OURS, C, OCAML, f"ours / {C}", "p50 us", "p99 us",
                            f"p50, p99 us {C}", "target"])
    shapes = [tuple(int(number) for number in shape.split("x")) for shape in arguments.shapes.split(",")]
    with common.Folder() as folder:
        c_daemon, c_socket = stock(arguments.build, folder, "xenstored", ["--no-fork"])
        ocaml_daemon, ocaml_socket = stock(
            arguments.build, folder, "oxenstored",
            ["--no-fork", "--no-access-log", "--config-file", str(common.PEERS / "etc/xen/oxenstored.conf")])
        (folder / "product").mkdir()
        with c_daemon, ocaml_daemon, product.Product(arguments.build, folder / "product") as ours:
            sockets = {OURS: ours.socket, C: c_socket, OCAML: ocaml_socket}
            for operation in arguments.operations.split(","):
                if operation == "directory":
                    # oxenstored answers with one message, far longer than the protocol allows.
                    able = {name: socket for name, socket in sockets.items() if name != OCAML}
                    for clients, depth in DIRECTORY_SHAPES:
                        compare(arguments, report, able, operation, clients, depth)
                else:
                    for clients, depth in shapes:
                        compare(arguments, report, sockets, operation, clients, depth)
    report.notes.append(f"A directory has {CHILDREN:,} children and is read whole in parts, a round trip each. oxenstored "
                        "answers with one message longer than the protocol's 4096 bytes instead.")
    report.notes.append(f"Medians of {arguments.rounds} rounds of {arguments.seconds:g} s, the servers taking turns. Ours ran "
                        "under bulkheadd with its standby and journal. One load generator thread for all.")
    return report


def compare(arguments, report, sockets, operation, clients, depth):
    results = {name: [] for name in sockets}
    for _ in range(arguments.rounds):
        for name, socket in sockets.items():
            results[name].append(measure(arguments.build, socket, operation, clients, depth, arguments.seconds))
    report.figures[f"{operation} {clients}x{depth}"] = results
    median = {name: medians(values) for name, values in results.items()}
    ratio = median[OURS]["per_second"] / median[C]["per_second"]
    target = TARGETS.get((operation, clients, depth))
    verdict = report.at_least(f"{operation} {clients}x{depth}, ours / {C}", ratio, target) if target else ""
    report.row(operation, f"{clients} x {depth}", *(f"{median[name]['per_second']:,.0f}" if name in median else "-" for name in (OURS, C, OCAML)),
               f"{ratio:.2f}", f"{median[OURS]['p50_us']:.0f}", f"{median[OURS]['p99_us']:.0f}",
               f"{median[C]['p50_us']:.0f}, {median[C]['p99_us']:.0f}", verdict)
