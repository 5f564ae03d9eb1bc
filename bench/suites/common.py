"""What the suites share: reports with targets, processes that end with us, places."""

import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
PEERS = TOP / "build" / "peers"


class Failure(Exception):
    """One line that says what is wrong and what would be right."""


class Report:
    """A table, the figures behind it, and the targets they must meet."""

    def __init__(self, title, headers):
        self.title = title
        self.headers = headers
        self.rows = []
        self.notes = []
        self.figures = {}
        self.targets = []

    def row(self, *cells):
        self.rows.append([str(cell) for cell in cells])

    def at_least(self, what, value, target):
        return self._target(what, value, ">=", target, value >= target)

    def at_most(self, what, value, target):
        return self._target(what, value, "<=", target, value <= target)

    def _target(self, what, value, relation, target, met):
        self.targets.append({"what": what, "value": value, "relation": relation, "target": target, "met": met})
        return f"{relation} {target:g}: {'met' if met else 'MISSED'}"

    def missed(self):
        return [target for target in self.targets if not target["met"]]

    def text(self):
        lines = [f"## {self.title}", "", machine(), ""]
        widths = [max(len(row[i]) for row in [self.headers, *self.rows]) for i in range(len(self.headers))]
        for row in [self.headers, ["-" * width for width in widths], *self.rows]:
            lines.append("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
        lines += [""] + self.notes
        for target in self.missed():
            lines.append(f"MISSED: {target['what']}: {target['value']:.3g}, target {target['relation']} {target['target']:g}")
        return "\n".join(lines).rstrip() + "\n"

    def write_json(self, path):
        path.write_text(json.dumps({"title": self.title, "machine": machine(), "figures": self.figures,
                                    "targets": self.targets}, indent=2) + "\n")


def machine():
    model = "unknown processor"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{os.cpu_count()} CPUs ({model}), Linux {platform.release()}"


def quantile(values, q):
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(q * 1000) * len(ordered) // 1000) - 1)] if ordered else 0.0


def program(build, name):
    path = build / "bin" / name
    if not path.exists():
        raise Failure(f"{path} is missing: build first (cmake --build --preset release), or name another --build")
    return str(path)


class Folder:
    """A temporary folder in memory where the machine has one, so that no peer waits for a disk."""

    def __enter__(self):
        shm = pathlib.Path("/dev/shm")
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="bulkhead-bench.", dir=shm if os.access(shm, os.W_OK) else None))
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)


class Process:
    """A child that is asked to end, then made to, when its block is left."""

    def __init__(self, arguments, log, environment=None, stdout=None):
        self.log = log
        with open(log, "ab") as stream:
            self.child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=stdout or stream, stderr=stream,
                                          env={**os.environ, **(environment or {})}, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self, patience=15):
        if self.child.poll() is None:
            self.child.terminate()
        try:
            self.child.wait(patience)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def end_session(self):
        """For supervisors that leave their children behind."""
        self.end()
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def tail(self):
        return "\n".join(pathlib.Path(self.log).read_text(errors="replace").splitlines()[-5:])


def wait_for(what, condition, seconds=30, process=None):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        if process and process.child.poll() is not None:
            raise Failure(f"{what}: the process ended with {process.child.returncode}\n{process.tail()}")
        time.sleep(0.01)
    raise Failure(f"{what}: not within {seconds} s" + (f"\n{process.tail()}" if process else ""))
