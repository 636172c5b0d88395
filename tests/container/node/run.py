"""The node's half of container/pod: runs the rendered objects of a release, and uses the VM.

    run.py WORK

WORK is what container/pod has put together: objects.json, seccomp.json, rootfs and image.json, kubelet,
www/, key, viewer. Root, on a machine with KVM, in namespaces of mounts and network that are nobody
else's.
"""

import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time

import bundle
import names
import network
import probes
from fields import Fields, Unsupported
from resources import Resources
from volumes import claimed, contents

PATIENCE_SECONDS = 600
PLUGINS = pathlib.Path("/var/lib/kubelet/device-plugins")
STARTED = time.monotonic()


class Failed(Exception):
    """The run has shown something that must not be."""


def say(text):
    """A line of the run's own, with the seconds since its start."""
    # In one piece, since probes speak too.
    sys.stdout.write(f"[{time.monotonic() - STARTED:6.1f}] {text}\n")
    sys.stdout.flush()


def wait_for(what, look, patience=PATIENCE_SECONDS, pause=0.5):
    """What `look` answers, as soon as it is anything."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() > deadline:
            raise Failed(f"after {patience} s: no {what}")
        time.sleep(pause)
    return found


class Running:
    """A container that runs."""

    def __init__(self, container, log):
        self.container, self.log = container, log
        with log.open("wb") as file:
            self._runner = subprocess.Popen(
                ["crun", "run", "--bundle", container.directory, container.id], stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def text(self):
        """All it has said, on both its streams."""
        return self.log.read_text(errors="replace")

    def status(self):
        """Its exit status, once it has ended; else nothing."""
        return self._runner.poll()

    def says(self, text):
        """Whether it has said that; an error if it has ended without."""
        said = text in self.text()
        if not said and self.status() is not None:
            raise Failed(f"{self.container.name} has ended with status {self.status()}, and did not say: {text}")
        return said

    def execute(self, command, timeout):
        """A command in it, as an exec probe: whether it succeeded, and what it said."""
        # Like its own process: left to itself, crun would run it as root.
        process = json.loads((self.container.directory / "config.json").read_text())["process"] | {"args": command}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(process, file)
            file.flush()
            done = subprocess.run(["crun", "exec", "--process", file.name, self.container.id], capture_output=True,
                                  text=True, timeout=timeout, check=False)
        return done.returncode == 0, (done.stdout + done.stderr).strip()

    def process(self):
        """The process, as this machine numbers it."""
        state = subprocess.run(["crun", "state", self.container.id], capture_output=True, text=True, check=True)
        return json.loads(state.stdout)["pid"]

    def stop(self, grace):
        """What the kubelet does to a container that is deleted; the answer is its exit status."""
        deadline = time.monotonic() + grace
        if self.container.pre_stop:
            say(f"preStop: {self.execute(self.container.pre_stop, grace)}")
        subprocess.run(["crun", "kill", self.container.id, "TERM"], check=True)
        while self.status() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if self.status() is None:
            self.kill()
            raise Failed(f"{self.container.name} has not ended within its terminationGracePeriodSeconds, {grace}")
        return self.status()

    def kill(self):
        """Ends it at once, if it still runs."""
        if self.status() is None:
            subprocess.run(["crun", "delete", "--force", self.container.id], capture_output=True, check=False)
            self._runner.wait()


class Node:
    """This machine, as the cluster's only node, with the release's objects."""

    def __init__(self, work, objects, place):
        self.work, self.objects, self.place = work, objects, place
        self.seccomp = json.loads((work / "seccomp.json").read_text())
        self.image = None
        self.running, self.pods = [], []
        # Those that Services lead to.
        self.endpoints = []

    def find(self, kind, name):
        """An object, as the API server would have it."""
        for thing in self.objects:
            if (thing["kind"], thing["metadata"]["name"]) == (kind, name):
                return thing
        raise Unsupported(f"there is no {kind} {name} among the rendered objects")

    def allocate(self, wanted):
        """The device manager: the plugin's answers for a container, in the order of the resources' names."""
        names = [f"{name}={count}" for name, count in sorted(wanted.items())]
        done = subprocess.run([self.work / "kubelet", "allocate", PLUGINS, *names], capture_output=True, text=True, check=False)
        for line in done.stderr.splitlines():
            say(f"kubelet: {line}")
        if done.returncode:
            raise Failed("the device plugin has not allocated what the pod asks for")
        answers = json.loads(done.stdout)
        for name in sorted(answers):
            say(f"Allocate {name}: {json.dumps(answers[name])}")
        return [answers[name] for name in sorted(answers)]

    def pod(self, thing, name):
        """A pod of an object, on the node's network; nothing of it runs yet."""
        metadata, spec = bundle.template(thing)
        namespace = thing["metadata"].get("namespace", metadata.get("namespace"))
        uid = f"{random.randrange(1 << 32):08x}"
        address = network.add_pod(uid, number=len(self.pods) + 2)
        place = self.place / "pods" / uid
        place.mkdir(parents=True)
        hosts, resolv_conf = place / "hosts", place / "resolv.conf"
        hosts.write_text(f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address}\t{name}\n")
        resolv_conf.write_text(f"search {namespace}.svc.cluster.local svc.cluster.local cluster.local\n"
                               f"nameserver {network.DNS}\noptions ndots:5\n")
        sandbox = bundle.Sandbox(name, namespace, uid, address, uid, hosts, resolv_conf)
        made = bundle.Pod(spec, sandbox, self.image, place / "pod", self.find, self.allocate, self.place / "claims", self.seccomp)
        self.pods.append(made)
        self.endpoints.append((namespace, metadata.get("labels", {}), address))
        say(f"pod {name} at {address}")
        return made, address

    def start(self, container):
        """Runs a container."""
        running = Running(container, container.directory / "log")
        self.running.append(running)
        return running

    def run(self, pod):
        """The init containers, one after another; then the only container."""
        for container in pod.init_containers:
            say(f"init container {container.name}")
            running = self.start(container)
            wait_for(f"end of {container.name}", lambda running=running: running.status() is not None)
            if running.status():
                raise Failed(f"the init container {container.name} has ended with status {running.status()}")
        (container,) = pod.containers
        return self.start(container)

    def forget(self, address):
        """A pod ends, and no Service leads to it any more."""
        self.endpoints[:] = [one for one in self.endpoints if one[2] != address]

    def close(self):
        """Ends what runs."""
        for running in self.running:
            running.kill()
        for pod in self.pods:
            pod.volumes.detach()


def ssh(node, address, command):
    """A command in the guest, from outside the node."""
    known = node.place / "known_hosts"
    return network.outside(
        "ssh", "-F", "none", "-i", node.place / "key", "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes", "-o",
        "StrictHostKeyChecking=accept-new", "-o", "HostKeyAlias=guest", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60",
        f"root@{address}", command, timeout=PATIENCE_SECONDS)


def view(node, address, password, picture):
    """A VNC client takes a picture, from outside the node: whether it was let in, and what it said."""
    command = [node.work / "viewer", "-s", f"{address}::5900", "-p", password, f"--timeout={PATIENCE_SECONDS - 60}", "capture", picture]
    done = network.outside(*command, timeout=PATIENCE_SECONDS, check=False)
    said = (done.stdout + done.stderr).strip()
    if done.returncode or not picture.exists():
        return False, said
    # PNG, 11.2.1: width and height come first in the first chunk.
    return True, "a picture of {} x {}".format(*struct.unpack_from(">II", picture.read_bytes(), 16))


def helm_test(node):
    """What `helm test` runs."""
    for thing in node.objects:
        if thing["kind"] == "Pod":
            pod, address = node.pod(thing, thing["metadata"]["name"])
            running = node.run(pod)
            wait_for("end of the chart's test", lambda: running.status() is not None)
            say(f"helm test: {running.text().strip()}")
            if running.status():
                raise Failed(f"the chart's test has ended with status {running.status()}")
            node.forget(address)
            pod.close()


def confined(process):
    """Every thread is without capabilities and new ones, with a filter."""
    wanted = {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapAmb": 0, "NoNewPrivs": 1, "Seccomp": 2}
    for status in pathlib.Path(f"/proc/{process}/task").glob("*/status"):
        found = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        for key, value in wanted.items():
            if int(found[key], 16) != value:
                raise Failed(f"{found['Name']}: {key} is {found[key]}")
    own = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    kept = [line.replace("\t", " ") for line in own if line.split(":")[0] in ("Uid", "Gid", "Groups", "CapBnd", "NoNewPrivs")]
    say(f"its threads are confined; {'; '.join(kept)}")


class Vm:
    """The VM's pod, from its creation to its end."""

    def __init__(self, node, thing):
        self.node = node
        say("creating the VM's pod")
        self.pod, self.address = node.pod(thing, f"{thing['metadata']['name']}-0")
        self.running = node.run(self.pod)
        container = self.pod.containers[0]
        looks = [probes.read(kind, values, self.address, self.running.execute)
                 for kind, values in container.probes.items() if values]
        self.prober = probes.Prober(looks, say)
        wait_for("readiness", self._is_ready)
        say(f"ready; {self.prober.counts()}")

    def _is_ready(self):
        if self.prober.restart:
            raise Failed(self.prober.restart)
        if self.running.status() is not None:
            raise Failed(f"it has ended with status {self.running.status()}")
        return self.prober.ready.is_set()

    def guest(self):
        """What the guest says of itself when it serves: a map."""
        wait_for("word from the guest that it serves", lambda: self.running.says("@@ serves"))
        lines = [line.strip() for line in self.running.text().splitlines() if line.startswith("@@ ")]
        return dict((line[3:].split(" ", 1) + [""])[:2] for line in lines)

    def memory(self):
        """What the container has taken of its limit, as the kernel counts it."""
        group = pathlib.Path("/sys/fs/cgroup") / self.pod.containers[0].cgroup.lstrip("/")
        files = [file for file in (group / f"memory.{key}" for key in ("current", "peak", "max")) if file.exists()]
        amounts = [(file.suffix[1:], file.read_text().strip()) for file in files]
        # memory.max is "max" where there is no limit.
        return ", ".join(f"{key} {int(text) >> 20} MiB" for key, text in amounts if text.isdecimal()) or "not counted"

    def delete(self):
        """`kubectl delete pod`: the guest has to shut down cleanly."""
        say(f"memory: {self.memory()}")
        say(f"deleting it: {self.pod.grace_seconds} s")
        began = time.monotonic()
        self.prober.stop()
        self.node.forget(self.address)
        if self.prober.restart:
            raise Failed(self.prober.restart)
        status = self.running.stop(self.pod.grace_seconds)
        text = self.running.text()
        for mark in ("@@ pressed", "@@ clean"):
            if mark not in text:
                raise Failed(f"the guest has not said: {mark}")
        if status:
            raise Failed(f"it has ended with status {status}")
        if message := self.pod.containers[0].termination_message.read_text():
            raise Failed(f"its termination message is: {message}")
        self.pod.close()
        say(f"the guest has shut down cleanly, in {time.monotonic() - began:.1f} s, status 0; {self.prober.counts()}")


def use_ssh(vm, guest):
    """SSH reaches the guest by the pod's address."""
    said = ssh(vm.node, vm.address, "echo $(hostname) $(cat /proc/sys/kernel/random/boot_id) $SSH_CONNECTION").stdout.split()
    say(f"SSH to {vm.address}: {' '.join(said)}")
    if said[1] != guest["boot"] or said[2] != network.CLIENT:
        raise Failed("SSH has not reached the guest, or not from where it was")


def use_commands(vm):
    """What `kubectl exec POD -- berth status` does."""
    good, said = vm.running.execute(["berth", "status", "-o", "json"], PATIENCE_SECONDS)
    if not good:
        raise Failed(f"berth status: {said}")
    status = json.loads(said)
    say(f"berth status: {status['name']} is {status['state']}")
    if not vm.running.says("control socket /run/berth/"):
        raise Failed("the control socket is not in /run/berth")


def use_screen(vm, secret):
    """VNC lets in who knows the Secret's password, and nobody else; also when the Secret changes."""
    node, pictures = vm.node, vm.node.place / "pictures"
    pictures.mkdir()

    def try_password(password, welcome, what):
        let_in, said = view(node, vm.address, password, pictures / f"{what}.png")
        if let_in != welcome:
            raise Failed(f"VNC with {what} password: {'let in' if let_in else 'refused'}: {said}")
        say(f"VNC with {what} password: {said if let_in else 'refused: ' + said.splitlines()[-1]}")
    password = contents(secret)["password"].decode()
    try_password(password, True, "the Secret's")
    try_password("wrongone", False, "another")
    vm.pod.volumes.rewrite("vnc", {"password": b"another1"})
    try_password("another1", True, "the Secret's new")
    try_password(password, False, "the Secret's old")


# In the guest: the disk with a serial number, its size; and a mark at its beginning and its end, read back.
FIND = 'for s in /sys/block/vd*/serial; do [ "$(cat $s)" = %s ] && d=${s%%/serial}; done; d=${d##*/}; '
SIZE = 'echo $(($(cat /sys/block/$d/size) * 512)); '
WRITE = 'for at in 0 %d; do dd if=/dev/urandom of=/dev/$d bs=1M count=1 seek=$at conv=fsync 2>/dev/null || exit 1; done; '
READ = 'for at in 0 %d; do dd if=/dev/$d bs=1M count=1 skip=$at 2>/dev/null | sha256sum; done'


def block_disks(node, thing):
    """Volumes of the VM that are block devices: serial number in the guest, and size."""
    spec = thing["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    found = {}
    for device in spec["containers"][0].get("volumeDevices", []):
        claim = volumes[device["name"]]["persistentVolumeClaim"]["claimName"]
        found[device["devicePath"].rsplit("/", 1)[1]] = claimed(node.find("PersistentVolumeClaim", claim))[1]
    return found


def use_disks(vm, thing, marks):
    """The guest has each block volume as a disk of its size. Those not in `marks` are written to; all are read:
    the answer is what they hold."""
    found = {}
    for serial, size in block_disks(vm.node, thing).items():
        last = (size >> 20) - 1
        command = FIND % serial + SIZE + ("" if serial in marks else WRITE % last) + READ % last
        told, *found[serial] = ssh(vm.node, vm.address, command).stdout.splitlines()
        say(f"the disk {serial}: {told} bytes, which hold {' and '.join(one[:12] for one in found[serial])}")
        if int(told) != size or len(set(found[serial])) != 2:
            raise Failed(f"the disk {serial} has another size than {size}, or does not hold what is written to it")
        if found[serial] != marks.get(serial, found[serial]):
            raise Failed(f"the disk {serial} does not hold what it held before: {marks[serial]}")
    return found


def mount_image(file, root):
    """The image's root file system, read-only; the answer is where."""
    root.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", file, root], check=True)
    return root


def main(work):
    objects = json.loads((work / "objects.json").read_text())
    thing = bundle.only_vm(objects)
    place = pathlib.Path("/scratch/node") if os.path.ismount("/scratch") else work / "node"
    for directory in (place, place / "claims", PLUGINS):
        directory.mkdir(parents=True, exist_ok=True)
    # ssh takes no key that others may read.
    (place / "key").write_bytes((work / "key").read_bytes())
    (place / "key").chmod(0o600)
    # As systemd makes these on nodes whose distribution does not say otherwise.
    for device in ("kvm", "vhost-net"):
        os.chmod(f"/dev/{device}", 0o666)
    for container in thing["spec"]["template"]["spec"]["containers"]:
        Resources.of(Fields(container["resources"], "resources")).set_aside()
    network.make()
    node = Node(work, objects, place)
    names.serve(network.DNS, names.addresses_of(objects, node.endpoints))
    reference = thing["spec"]["template"]["spec"]["containers"][0]["image"]
    node.image = bundle.Image(reference, mount_image(work / "rootfs", place / "image"), json.loads((work / "image.json").read_text()))
    try:
        story(node, thing)
    except BaseException:
        for running in node.running:
            print(f"---- {running.container.name} has said:\n{running.text()}----", flush=True)
        raise
    finally:
        node.close()


def story(node, thing):
    web = network.serve(node.work / "www")
    for one in node.objects:
        if one["kind"] == "DaemonSet":
            node.run(node.pod(one, f"{one['metadata']['name']}-1")[0])
    vm = Vm(node, thing)
    confined(vm.running.process())
    guest = vm.guest()
    say(f"the guest: {guest}")
    if guest["boots"] != "1":
        raise Failed("a new disk has booted before")
    use_commands(vm)
    use_ssh(vm, guest)
    marks = use_disks(vm, thing, {})
    helm_test(node)
    name = thing["metadata"]["name"]
    if any(volume["name"] == "vnc" for volume in thing["spec"]["template"]["spec"]["volumes"]):
        secret = next(volume["secret"]["secretName"] for volume in thing["spec"]["template"]["spec"]["volumes"]
                      if volume["name"] == "vnc")
        use_screen(vm, node.find("Secret", secret))
    vm.delete()
    # The claim is all that stays: nothing is fetched again.
    web.terminate()
    say(f"{name}-0 comes back, elsewhere")
    vm = Vm(node, thing)
    again = vm.guest()
    say(f"the guest: {again}")
    if (again["boots"], again["ended"]) != ("2", "clean"):
        raise Failed("it is not the disk of before, or was not unmounted")
    variables = thing["spec"]["template"]["spec"]["containers"][0]["env"]
    # In direct mode the hardware address is the pod's, and so another's.
    kept = ["instance"] if {"name": "NET", "value": "direct"} in variables else ["instance", "mac"]
    if any(again[key] != guest[key] for key in kept):
        raise Failed("its identity is another")
    # With the host key of before: ssh takes no other.
    use_ssh(vm, again)
    use_disks(vm, thing, marks)
    vm.delete()
    plugin = next((one for one in node.running if one.container.name == "device-plugin"), None)
    if plugin and (status := plugin.stop(30)):
        raise Failed(f"the device plugin has ended with status {status}")


if __name__ == "__main__":
    try:
        main(pathlib.Path(sys.argv[1]))
    except (Failed, Unsupported) as error:
        say(f"FAILED: {error}")
        sys.exit(1)
    say("passed: the rendered pod runs")
