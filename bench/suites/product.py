"""Ourselves: bulkheadd with its xenstore service, standby and journal on, in a folder of its own."""

import json
import subprocess

from . import common


class Product:
    def __init__(self, build, folder, settings=()):
        self.build = build
        self.folder = folder
        self.socket = str(folder / "xenstore.sock")
        self.api = str(folder / "api.sock")
        (folder / "state").mkdir()
        arguments = [common.program(build, "bulkheadd"), "--config", str(common.TOP / "config" / "bulkhead.toml")]
        for setting in (f"supervisor.runtime_dir={folder}", f"supervisor.state_dir={folder / 'state'}",
                        f"api.socket={self.api}", f"components.xenstore.socket={self.socket}", *settings):
            arguments += ["--set", setting]
        self.process = common.Process(arguments, folder / "bulkheadd.log")

    def __enter__(self):
        try:
            common.wait_for("bulkheadd", self.ready, process=self.process)
        except common.Failure:
            self.process.end()
            raise
        return self

    def __exit__(self, *_):
        self.process.end()

    def cli(self, *arguments):
        return [common.program(self.build, "bulkhead"), "--socket", self.api, *arguments]

    def component(self):
        """The xenstore component as the API shows it, None while there is no answer."""
        answer = subprocess.run(self.cli("status", "-o", "json"), capture_output=True, text=True)
        if answer.returncode != 0:
            return None
        listed = json.loads(answer.stdout).get("components", [])
        return next((component for component in listed if component["name"] == "xenstore"), None)

    def ready(self):
        return is_ready(self.component())


def is_ready(component):
    return bool(component) and component["state"] == "STATE_SERVING" and component["standby_ready"]


class Killer:
    """Follows the component's state and lets the load generator kill the active instance whenever a standby is ready.

    The load generator does the killing itself, so that its clock starts at the very instant."""

    def __init__(self, product, orders):
        self.orders = orders
        self.watch = subprocess.Popen(product.cli("watch", "xenstore", "-o", "json"), stdout=subprocess.PIPE, text=True)
        self.killed = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.watch.terminate()
        self.watch.wait()

    def kill(self, number, between):
        """`between()` is called before each kill: it may wait."""
        done = 0
        while done < number:
            line = self.watch.stdout.readline()
            if not line:
                raise common.Failure(f"bulkhead watch ended after {done} kills")
            component = json.loads(line)["component"]
            if component["state"] == "STATE_ISOLATED":
                raise common.Failure(f"isolated after {done} kills: {component['cause']}")
            if not is_ready(component) or component["active_pid"] == self.killed:
                continue
            between()
            self.killed = component["active_pid"]
            self.orders.write(f"kill {self.killed}\n")
            self.orders.flush()
            done += 1
        self.wait_until_ready()

    def wait_until_ready(self):
        for line in self.watch.stdout:
            component = json.loads(line)["component"]
            if is_ready(component) and component["active_pid"] != self.killed:
                return


def run_load(product, clients, number, between, deadline=None):
    """Kills the active instance `number` times under load. The load generator's report."""
    folder = product.folder
    control, started, result = folder / "control", folder / "started", folder / "load.json"
    subprocess.run(["mkfifo", str(control)], check=True)
    arguments = [common.program(product.build, "xs-load"), "--socket", product.socket, "--clients", clients,
                 "--control", str(control), "--started-file", str(started), "--json", str(result)]
    with common.Process(arguments, folder / "xs-load.log") as load:
        common.wait_for("xs-load", started.exists, process=load)
        with open(control, "w") as orders, Killer(product, orders) as killer:
            killer.kill(number, between)
            orders.write("stop\n")
        common.wait_for("the end of xs-load", lambda: load.child.poll() is not None, seconds=60)
        if not result.exists():
            raise common.Failure(f"xs-load failed\n{load.tail()}")
    return json.loads(result.read_text())


# A campaign kills more often than any real fault: no budget may end it.
CAMPAIGN = ("components.xenstore.restart.hand_over_budget=1000000", "components.xenstore.restart.budget=1000000",
            "supervisor.log_level=warning", "defaults.restart.backoff_initial=1ms")
