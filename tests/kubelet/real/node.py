"""A node with nothing but a real kubelet and containerd: no API server, so its pods are files.

Whoever uses it is root on a machine that is nobody else's.
"""

import json
import os
import pathlib
import re
import subprocess
import time
import urllib.error
import urllib.request

import yaml

PATIENCE_SECONDS = 900
PLACE = pathlib.Path("/scratch")
STATE = pathlib.Path("/var/lib/kubelet")
LOGS = pathlib.Path("/var/log/pods")
NODE = "node"
CONTAINERD = """
version = 2
root = "/scratch/containerd"
state = "/run/containerd"
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:test"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
# Several times quicker than runc where this machine is emulated.
BinaryName = "crun"
"""
SOCKET = "/run/containerd/containerd.sock"
CONFIGURATION = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
    "containerRuntimeEndpoint": f"unix://{SOCKET}", "staticPodPath": f"{PLACE}/manifests", "cgroupDriver": "cgroupfs",
    # The port for reading is how one without an API server tells of its pods.
    "enableServer": True, "address": "127.0.0.1", "readOnlyPort": 10255,
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}}, "authorization": {"mode": "AlwaysAllow"},
    "failSwapOn": False, "makeIPTablesUtilChains": False, "volumeStatsAggPeriod": "-1s", "nodeStatusUpdateFrequency": "1m",
    # This machine's disk and memory are small, and no pod is to be put out for that.
    "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
}


class Failed(Exception):
    """The run has shown something that must not be."""


def wait_for(what, look, patience=PATIENCE_SECONDS):
    """What `look` answers, as soon as it is anything."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() > deadline:
            raise Failed(f"after {patience} s: no {what}")
        # Seldom: where this machine is emulated, each look takes from what is waited for.
        time.sleep(3)
    return found


class Runtime:
    """containerd, and its images."""

    def __init__(self, images):
        PLACE.joinpath("containerd.toml").write_text(CONTAINERD)
        with PLACE.joinpath("containerd.log").open("wb") as log:
            self._process = subprocess.Popen(["containerd", "--config", PLACE / "containerd.toml"], stdout=log, stderr=log)
        wait_for("containerd", lambda: self._alive() and self._ctr("version", check=False).returncode == 0)
        self._ctr("images", "import", images)

    def _alive(self):
        if self._process.poll() is not None:
            raise Failed(f"containerd has ended with status {self._process.returncode}")
        return True

    @staticmethod
    def _ctr(*arguments, check=True):
        return subprocess.run(["ctr", "--namespace", "k8s.io", *arguments], capture_output=True, text=True, check=check)

    def execute(self, container, *command):
        """A command in a container, as its user: its status, and what it said."""
        done = self._ctr("tasks", "exec", "--exec-id", "look", container, *command, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    def running(self, container):
        """Whether a container runs."""
        rows = (row.split() for row in self._ctr("tasks", "list").stdout.splitlines())
        return any(row[0] == container and row[-1] == "RUNNING" for row in rows)


class Kubelet:
    """The kubelet; it lives as often as it is started."""

    def __init__(self, programs):
        self._programs, self._process, self._lives = programs, None, 0
        (PLACE / "manifests").mkdir()
        (PLACE / "kubelet.json").write_text(json.dumps(CONFIGURATION))
        # On a disk of its own, at the place that plugins know it by.
        (PLACE / "kubelet").mkdir()
        STATE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", PLACE / "kubelet", STATE], check=True)

    def start(self):
        """A life begins; over when it answers."""
        self._lives += 1
        with self.log().open("wb") as log:
            self._process = subprocess.Popen(
                [self._programs / "kubelet", "--config", PLACE / "kubelet.json", f"--hostname-override={NODE}", "--v=2",
                 # cAdvisor's statistics, which nobody reads, take much of an emulated machine's time.
                 "--housekeeping-interval=60s"],
                stdout=log, stderr=log)
        wait_for("kubelet that is healthy", lambda: self._get("http://127.0.0.1:10248/healthz") == "ok")

    def stop(self):
        """As systemd ends it: pods go on."""
        self._process.terminate()
        self._process.wait()

    def log(self):
        """What it has said in this life."""
        return PLACE / f"kubelet-{self._lives}.log"

    def _get(self, url):
        if self._process.poll() is not None:
            raise Failed(f"the kubelet has ended with status {self._process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return answer.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return ""

    def resources(self):
        """By its API PodResources: what it can allocate, and which container holds what."""
        command = [self._programs / "resources", STATE / "pod-resources/kubelet.sock"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # Served later than the rest, after a start.
        return json.loads(done.stdout) if done.returncode == 0 else {"allocatable": {}, "held": {}}

    def checkpoint(self):
        """How many healthy devices of each resource its device manager has written down."""
        data = json.loads((STATE / "device-plugins/kubelet_internal_checkpoint").read_text())
        return {name: len(ids) for name, ids in data["Data"]["RegisteredDevices"].items()}

    def metric(self, name):
        """A counter of its, by resource."""
        pattern = rf'^{name}{{resource_name="([^"]*)"}} (\d+)$'
        return {resource: int(count) for resource, count in re.findall(pattern, self._get("http://127.0.0.1:10255/metrics"), re.M)}

    def pod(self, name):
        """The status of a pod; nothing before there is one."""
        pods = json.loads(self._get("http://127.0.0.1:10255/pods") or "{}").get("items") or []
        return next((pod["status"] for pod in pods if pod["metadata"]["name"] == f"{name}-{NODE}"), None)

    def container(self, pod, name):
        """A container of a pod that runs: its number at the runtime; nothing if it does not."""
        for status in (self.pod(pod) or {}).get("containerStatuses", []):
            if status["name"] == name and "running" in status["state"]:
                return status["containerID"].removeprefix("containerd://")
        return None


def put(manifest):
    """A pod that the kubelet is to run. In one piece: the kubelet looks at every file that it finds."""
    name = manifest["metadata"]["name"]
    aside = PLACE / f"{name}.json"
    aside.write_text(json.dumps(manifest))
    os.rename(aside, PLACE / "manifests" / aside.name)


def take_away(name):
    """A pod that it is not to run any more."""
    (PLACE / "manifests" / f"{name}.json").unlink()


def read(file, **changes):
    """A pod out of a file, with changes to its metadata."""
    manifest = yaml.safe_load(file.read_text())
    manifest["metadata"].update(changes)
    return manifest


class Log:
    """What a container has said; held open, since a pod's log goes with it."""

    def __init__(self, pod, container):
        def find():
            return next(LOGS.glob(f"*_{pod}-{NODE}_*/{container}/0.log"), None)
        self._file = wait_for(f"log of {pod}", find).open(encoding="utf-8", errors="replace")

    def text(self):
        """All of it, without times and streams."""
        self._file.seek(0)
        return "\n".join(line.rstrip("\n").split(" ", 3)[-1] for line in self._file)


def last_words():
    """What the node's programs said last, for whoever looks for a reason."""
    for file in sorted(PLACE.glob("*.log")):
        print(f"---- {file.name}", flush=True)
        subprocess.run(["tail", "-n", "40", file], check=False)
    for file in sorted(LOGS.glob("*/*/*.log")):
        print(f"---- {file}", flush=True)
        subprocess.run(["tail", "-n", "20", file], check=False)
