"""From crash to the first right answer, against runit, s6 and supervisord.

The peers restart a server of forty lines, the best case for them; ours is the whole xenstore service with its state."""

import json
import os
import subprocess
import time

from . import common, product

TARGET = 0.1  # of runit's median


def add_arguments(parser):
    parser.add_argument("--kills", type=int, default=15, help="of each peer's server (default 15)")
    parser.add_argument("--own-kills", type=int, default=200, help="of our service (default 200)")
    parser.add_argument("--uptime-ms", type=int, default=1200, help="life of a peer's server before it is killed")


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def runit(folder, server, socket):
    service = folder / "service"
    service.mkdir()
    script(service / "run", f"exec {server} {socket}")
    return [str(common.PEERS / "usr/bin/runsv"), str(service)]


def s6(folder, server, socket):
    service = folder / "service"
    service.mkdir()
    script(service / "run", f"exec {server} {socket}")
    return [str(common.PEERS / "usr/bin/s6-supervise"), str(service)]


def supervisord(folder, server, socket):
    config = folder / "supervisord.conf"
    config.write_text(f"[supervisord]\nnodaemon=true\nuser={os.environ.get('USER', 'root') if os.getuid() == 0 else ''}\n"
                      f"logfile={folder}/log\npidfile={folder}/pid\nchildlogdir={folder}\n"
                      f"[program:tiny]\ncommand={server} {socket}\nautorestart=true\nstartsecs=0\nstartretries=1000\n")
    return ["/usr/bin/python3", str(common.PEERS / "usr/bin/supervisord"), "--configuration", str(config)]


PEERS = {"runit": runit, "s6": s6, "supervisord": supervisord}


def environment():
    libraries = common.PEERS / "usr/lib/x86_64-linux-gnu"
    return {"LD_LIBRARY_PATH": f"{libraries}:{common.PEERS / 'lib/x86_64-linux-gnu'}",
            "PYTHONPATH": str(common.PEERS / "usr/lib/python3/dist-packages"), "USER": "root"}


def measure_peer(arguments, folder, supervisor):
    folder.mkdir()
    socket = folder / "socket"
    command = supervisor(folder, common.program(arguments.build, "tiny-server"), socket)
    process = common.Process(command, folder / "supervisor.log", environment())
    try:
        common.wait_for(command[0], socket.exists, process=process)
        probe = subprocess.run([common.program(arguments.build, "restart-probe"), str(socket), str(arguments.kills),
                                str(arguments.uptime_ms)], capture_output=True, text=True)
        if probe.returncode != 0:
            raise common.Failure(f"{probe.stderr.strip()}\n{process.tail()}")
        return json.loads(probe.stdout)
    finally:
        process.end_session()


def measure_ours(arguments, folder):
    folder.mkdir()
    with product.Product(arguments.build, folder, product.CAMPAIGN) as ours:
        # An idle service with a client connected, like the peers': the pause lets the machine come to rest.
        return product.run_load(ours, "writers=0", arguments.own_kills, lambda: time.sleep(0.02))


def run(arguments):
    report = common.Report("restart: from SIGKILL to the first right answer (ms)",
                           ["supervisor", "kills", "p50", "p99", "max", "clients see", "state", "target"])
    if not (common.PEERS / "complete").exists():
        raise common.Failure(f"{common.PEERS} is missing: run scripts/deps")
    with common.Folder() as folder:
        peers = {name: measure_peer(arguments, folder / name, supervisor) for name, supervisor in PEERS.items()}
        ours = measure_ours(arguments, folder / "product")
    if ours["anomalies"]["total"] > 0 or ours["answered"] != ours["marks"]:
        raise common.Failure(f"our service failed its clients: {ours['described'] or 'kills without an answer'}")
    answer = ours["answer_us"]
    limit = TARGET * common.quantile(peers["runit"], 0.5)
    verdict = report.at_most("our median / runit's median", answer["p50"] / common.quantile(peers["runit"], 0.5), TARGET)
    report.row("bulkhead", ours["answered"], *(f"{answer[key] / 1e3:.2f}" for key in ("p50", "p99", "max")), "nothing",
               "kept", verdict)
    for name, outages in peers.items():
        report.row(name, len(outages), *(f"{common.quantile(outages, q) / 1e3:.2f}" for q in (0.5, 0.99, 1)),
                   "a disconnect", "lost", "")
    report.notes.append(f"Target: a tenth of runit's median, {limit / 1e3:.3f} ms. The peers' servers had lived for "
                        f"{arguments.uptime_ms} ms, so that no start was held back; their client reconnects in a tight loop.")
    report.figures = {"bulkhead": ours, **peers}
    return report
