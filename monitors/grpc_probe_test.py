#!/usr/bin/env python3
"""bulkhead-grpc-probe against a health service made with an independent implementation of gRPC."""

import concurrent.futures
import os
import subprocess
import sys
import tempfile
import time

import grpc

PROBE = sys.argv[1]
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
ANSWERS = {b"": SERVING, b"\x0a\x04good": SERVING, b"\x0a\x03bad": NOT_SERVING, b"\x0a\x07default": b"",
           b"\x0a\xac\x02" + b"x" * 300: SERVING}


class Health(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method != "/grpc.health.v1.Health/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(self.check)

    @staticmethod
    def check(request, context):
        if request == b"\x0a\x04slow":
            time.sleep(5)
        if request not in ANSWERS:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return ANSWERS[request]


class One(grpc.GenericRpcHandler):
    """The same answer to everybody."""

    def __init__(self, answer):
        self.answer = answer

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.answer)


def serve(address, answer):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), handlers=[One(answer)])
    server.add_insecure_port(address)
    server.start()
    return server


def probe(*arguments):
    return subprocess.run([PROBE, *arguments], capture_output=True, timeout=30).returncode


def main():
    with tempfile.TemporaryDirectory() as directory:
        address = "unix:" + os.path.join(directory, "health.sock")
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=[Health()])
        server.add_insecure_port(address)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        unwell, strange = (f"unix:{directory}/{name}.sock" for name in ("unwell", "strange"))
        others = [serve(unwell, lambda request, context: NOT_SERVING),
                  serve(strange, lambda request, context: context.abort(grpc.StatusCode.NOT_FOUND, "what?"))]
        cases = [
            ((address, "", "5000"), 0),
            ((address, "good", "5000"), 0),
            ((address, "x" * 300, "5000"), 0),
            ((f"127.0.0.1:{port}", "good", "5000"), 0),
            ((address, "bad", "5000"), 1),
            ((address, "default", "5000"), 1),
            ((address, "unknown", "5000"), 1),
            ((address, "slow", "200"), 1),
            ((address, "*", "5000"), 0),
            ((unwell, "*", "5000"), 0),
            ((unwell, "", "5000"), 1),
            ((strange, "*", "5000"), 0),
            (("unix:" + directory + "/nobody.sock", "*", "1000"), 1),
            (("unix:" + directory + "/nobody.sock", "", "1000"), 1),
            ((address, "good"), 2),
            ((address, "good", "soon"), 2),
        ]
        failures = [f"{arguments}: {probe(*arguments)} instead of {expected}"
                    for arguments, expected in cases if probe(*arguments) != expected]
        for one in [server, *others]:
            one.stop(0)
    print("\n".join(failures) or "ok")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
