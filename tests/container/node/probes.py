"""The kubelet's probes of a container: what it asks, when, and what it makes of the answers.

The start-up probe goes first; when it has succeeded, liveness and readiness begin.
"""

import dataclasses
import http.client
import socket
import subprocess
import threading
import time

from fields import Fields, Unsupported


@dataclasses.dataclass
class Probe:
    """One probe, with Kubernetes' defaults."""

    kind: str
    look: object
    what: str
    initial_delay: int
    period: int
    timeout: int
    successes: int
    failures: int


def read(kind, values, address, execute):
    """A probe from its specification; `execute(command, timeout)` runs a command in the container."""
    with Fields(values, f"{kind}Probe") as fields:
        timing = {
            "initial_delay": fields.take("initialDelaySeconds", int, 0),
            "period": fields.take("periodSeconds", int, 10),
            "timeout": fields.take("timeoutSeconds", int, 1),
            "successes": fields.take("successThreshold", int, 1),
            "failures": fields.take("failureThreshold", int, 3),
        }
        kinds = fields.keys()
        if len(kinds) != 1 or kinds[0] not in ("httpGet", "tcpSocket", "exec"):
            raise Unsupported(f"{fields.path}: {', '.join(kinds)}")
        with fields.below(kinds[0]) as action:
            look, what = ACTIONS[kinds[0]](action, address, execute, timing["timeout"])
    return Probe(kind=kind, look=look, what=what, **timing)


def http_get(fields, address, _execute, timeout):
    path, port = fields.take("path", str, "/"), fields.take("port", int)
    fields.expect("scheme", "HTTP")

    def look():
        connection = http.client.HTTPConnection(address, port, timeout=timeout)
        try:
            connection.request("GET", path, headers={"User-Agent": "kube-probe/1.32", "Accept": "*/*", "Connection": "close"})
            answer = connection.getresponse()
            body = answer.read(10 * 1024).decode(errors="replace").strip()
        finally:
            connection.close()
        return 200 <= answer.status < 400, f"{answer.status} {body}"
    return look, f"GET http://{address}:{port}{path}"


def tcp_socket(fields, address, _execute, timeout):
    port = fields.take("port", int)

    def look():
        with socket.create_connection((address, port), timeout=timeout):
            return True, "open"
    return look, f"TCP {address}:{port}"


def command(fields, _address, execute, timeout):
    words = fields.strings("command")
    return lambda: execute(words, timeout), " ".join(words)


ACTIONS = {"httpGet": http_get, "tcpSocket": tcp_socket, "exec": command}


class Prober:
    """Looks at a container until it is told to stop. `restart` says why the kubelet would restart it."""

    def __init__(self, probes, say):
        self.ready = threading.Event()
        self.restart = None
        self.looks = {probe.kind: [0, 0] for probe in probes}
        self._say = say
        self._end = threading.Event()
        self._started = threading.Event()
        if not any(probe.kind == "startup" for probe in probes):
            self._started.set()
        if not any(probe.kind == "readiness" for probe in probes):
            self.ready.set()
        self._threads = [threading.Thread(target=self._run, args=[probe], daemon=True) for probe in probes]
        for thread in self._threads:
            thread.start()

    def stop(self):
        """No more looks."""
        self._end.set()
        for thread in self._threads:
            thread.join()

    def counts(self):
        """How many looks were good and bad, of each probe."""
        return ", ".join(f"{kind}: {good} good, {bad} bad" for kind, (good, bad) in self.looks.items())

    def _run(self, probe):
        while probe.kind != "startup" and not self._started.wait(0.1):
            if self._end.is_set():
                return
        wait, run, last = probe.initial_delay, 0, None
        while not self._end.wait(wait):
            began = time.monotonic()
            try:
                good, answer = probe.look()
            except subprocess.TimeoutExpired:
                good, answer = False, "timed out"
            except (OSError, http.client.HTTPException) as error:
                good, answer = False, str(error) or type(error).__name__
            if self._end.is_set():
                return
            self.looks[probe.kind][not good] += 1
            run = run + 1 if good is last else 1
            if good is not last or not good:
                self._say(f"{probe.kind} probe, {probe.what}: {answer}")
            last = good
            if self._judge(probe, good, run):
                return
            wait = max(0.0, probe.period - (time.monotonic() - began))

    def _judge(self, probe, good, run):
        """Whether this probe's work is done."""
        if good and run >= probe.successes:
            if probe.kind == "startup":
                self._started.set()
                return True
            if probe.kind == "readiness":
                self.ready.set()
        elif not good and run >= probe.failures:
            if probe.kind == "readiness":
                self.ready.clear()
                return False
            self.restart = f"the {probe.kind} probe has failed {run} times"
            return True
        return False
