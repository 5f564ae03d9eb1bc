"""Kills of the active xenstore instance under a checking load: what is lost, and for how long it is silent."""

import random
import time

from . import common, product

CLIENTS = "readers=2,writers=4,watchers=2,movers=4,models=2"


def add_arguments(parser):
    parser.add_argument("--kills", type=int, default=20000, help="default 20000")
    parser.add_argument("--clients", default=CLIENTS, help=f"default {CLIENTS}")
    parser.add_argument("--seed", type=int, default=1, help="of the random pauses between kills")


def run(arguments):
    report = common.Report("kills: SIGKILL of the active instance under checking load",
                           ["figure", "value", "target"])
    instants = random.Random(arguments.seed)
    begin = time.monotonic()
    with common.Folder() as folder, product.Product(arguments.build, folder, product.CAMPAIGN) as ours:
        load = product.run_load(ours, arguments.clients, arguments.kills, lambda: time.sleep(instants.uniform(0, 0.002)))
    seconds = time.monotonic() - begin
    anomalies = load["anomalies"]
    lost = anomalies["lost"] + anomalies["no_reply"] + anomalies["disconnected"]
    others = anomalies["total"] - lost - anomalies["repeated"]
    report.row("kills", f"{load['marks']:,}", report.at_least("kills", load["marks"], arguments.kills))
    report.row("replies checked", f"{load['replies']:,}", "")
    report.row("lost (replies, events, connections)", lost, report.at_most("lost", lost, 0))
    report.row("repeated", anomalies["repeated"], report.at_most("repeated", anomalies["repeated"], 0))
    report.row("out of order, torn, wrong", others, report.at_most("out of order, torn, wrong", others, 0))
    unanswered = load["marks"] - load["answered"]
    report.row("kills without a next answer", unanswered, report.at_most("kills without a next answer", unanswered, 0))
    for key in ("p50", "p99", "max"):
        report.row(f"kill to next right answer, {key}", f"{load['answer_us'][key] / 1e3:.2f} ms", "")
    report.row("longest silence", f"{load['longest_silence_us'] / 1e3:.1f} ms", "")
    report.notes += [f"{seconds:.0f} s in all; load: {arguments.clients}."] + load["described"]
    report.figures = load
    return report
