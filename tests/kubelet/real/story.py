"""The device plugin and a real kubelet: what happens on the machine of kubelet/real/run.

    story.py PROGRAMS WORK

PROGRAMS has kubelet and resources; WORK what the driver has put together: images.tar, objects.json,
pod.yaml, vm.yaml, guest/.
"""

import json
import os
import pathlib
import stat
import sys
import time

import node
from node import Failed, Log, wait_for

SLOTS = 3
KVM, TUN, VHOST_NET = "berth.dev/kvm", "berth.dev/tun", "berth.dev/vhost-net"
ALL = {KVM: SLOTS, TUN: SLOTS, VHOST_NET: SLOTS}
DEVICE = pathlib.Path("/dev/kvm")
# pod.yaml's user is in it.
GROUP = 108
# Every container's own, by numbers in base 16.
COMMON = {"/dev/full 1:7", "/dev/null 1:3", "/dev/pts/ptmx 5:2", "/dev/random 1:8", "/dev/tty 5:0", "/dev/urandom 1:9", "/dev/zero 1:5"}
GIVEN = {"/dev/kvm a:e8", "/dev/net/tun a:c8"}
STARTED = time.monotonic()


def say(text):
    """A line of the run's own, with the seconds since its start."""
    print(f"[{time.monotonic() - STARTED:6.1f}] {text}", flush=True)


def expect(what, found, wanted):
    """Fails unless what was found is what was wanted."""
    if found != wanted:
        raise Failed(f"{what}: {found}, not {wanted}")
    say(f"{what}: {found}")


def plugin_pod(objects):
    """The device plugin's pod as rendered, but on the node's network: else the runtime wants a plugin for that."""
    (template,) = [one["spec"]["template"] for one in objects if one["kind"] == "DaemonSet"]
    spec = template["spec"] | {"hostNetwork": True}
    metadata = template["metadata"] | {"name": "plugin", "namespace": "vms"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


class Story:
    """The node, and what is done on it."""

    def __init__(self, programs, work):
        self.work = work
        self.plugin = plugin_pod(json.loads((work / "objects.json").read_text()))
        # As Debian's udev makes it: others may not open it.
        os.chown(DEVICE, 0, GROUP)
        os.chmod(DEVICE, 0o660)
        self.runtime = node.Runtime(work / "images.tar")
        say("containerd runs, and has the images")
        self.kubelet = node.Kubelet(programs)

    def offers(self, wanted, when, noted=True):
        """The kubelet comes to offer that; and, if `noted`, has written it down."""
        def looks():
            found = self.kubelet.resources()["allocatable"]
            # A resource without a healthy device may have left the list, or be there with none.
            return {name: found.get(name, 0) for name in ALL} == wanted
        try:
            wait_for(f"{wanted} {when}", looks)
        except Failed as failed:
            raise Failed(f"{failed}; it has {self.kubelet.resources()['allocatable']}") from failed
        say(f"{when}, allocatable: {wanted}")
        if noted:
            found = self.kubelet.checkpoint()
            expect(f"{when}, healthy in the checkpoint", {name: found.get(name, 0) for name in ALL}, wanted)

    def registered(self, when):
        """Each resource once in this life of the kubelet."""
        expect(f"{when}, registrations", self.kubelet.metric("kubelet_device_plugin_registration_total"), dict.fromkeys(ALL, 1))

    def runs(self, pod, container):
        """The container, when it runs; an error if its pod was refused."""
        def looks():
            status = self.kubelet.pod(pod) or {}
            if status.get("phase") == "Failed":
                raise Failed(f"the pod {pod} is refused: {status.get('reason')}: {status.get('message')}")
            return self.kubelet.container(pod, container)
        return wait_for(f"{container} of the pod {pod}", looks)

    def refused(self, name, count):
        """A pod that asks for more KVMs than can be had."""
        manifest = node.read(self.work / "pod.yaml", name=name)
        del manifest["spec"]["volumes"], manifest["spec"]["containers"][1:]
        container = manifest["spec"]["containers"][0]
        del container["volumeMounts"]
        container["resources"]["limits"] = {KVM: count}
        node.put(manifest)
        status = wait_for(f"end of the pod {name}", lambda: (found := self.kubelet.pod(name)) and found["phase"] == "Failed" and found)
        # What its device manager answers to a pod that no scheduler has kept away.
        expect(f"the pod {name}", status.get("reason"), "UnexpectedAdmissionError")
        say(f"  {status['message']}")
        if KVM not in status["message"]:
            raise Failed(f"the pod {name} is refused for another reason than {KVM}")
        node.take_away(name)

    def what_it_finds(self, container):
        """What the container of pod.yaml says: its devices, and what it can open."""
        log = Log("holder", container)
        wait_for(f"list from {container}", lambda: "listed" in log.text())
        lines = log.text().splitlines()
        say(f"{container}: {'; '.join(line for line in lines if not line.startswith('device'))}")
        return ({line.removeprefix("device ") for line in lines if line.startswith("device ")},
                {line for line in lines if line.startswith(("open ", "closed ", "absent "))})

    def hold(self):
        """A pod takes two devices: its containers find what they asked for, and nothing else."""
        node.put(node.read(self.work / "pod.yaml"))
        held = self.runs("holder", "with")
        self.runs("holder", "without")
        devices, opened = self.what_it_finds("with")
        expect("devices of the container that asks", sorted(devices - COMMON), sorted(GIVEN))
        expect("it opens", sorted(opened), ["open /dev/kvm", "open /dev/net/tun", "open /node/kvm"])
        devices, opened = self.what_it_finds("without")
        expect("devices of the container that does not ask", sorted(devices - COMMON), [])
        expect("it opens", sorted(opened), [
            "absent /dev/kvm", "absent /dev/net/tun", "closed /node/kvm: Operation not permitted"])
        self.still_holds(held, "when it has started")
        return held

    def still_holds(self, held, when):
        """The same container runs as before, with its devices, also in the kubelet's book."""
        expect(f"{when}, the container that holds devices is the same", self.runs("holder", "with") == held, True)
        wanted = {f"vms/holder-{node.NODE}/with": {KVM: 1, TUN: 1}}
        wait_for(f"entry of what it holds, {when}", lambda: self.kubelet.resources()["held"] == wanted)
        status, said = self.runtime.execute(held, "bash", "-c", "exec 3<>/dev/kvm 4<>/dev/net/tun && echo $UID")
        expect(f"{when}, it opens both, as the user", (status, said), (0, "65532"))

    def run_vm(self):
        """A pod that is a VM, to its guest's shutdown."""
        manifest = node.read(self.work / "vm.yaml")
        manifest["spec"]["volumes"][0]["hostPath"]["path"] = str(self.work / "guest")
        node.put(manifest)
        container = self.runs("vm", "vm")
        log = Log("vm", "vm")
        wait_for("word from the guest", lambda: "@@ listening" in log.text())
        say("the guest of a pod runs")
        node.take_away("vm")
        # A pod that is no file any more is not in the kubelet's list, long before its end.
        wait_for("word of the power button from the guest", lambda: "@@ pressed" in log.text())
        wait_for("end of the guest", lambda: "@@ end 0" in log.text())
        wait_for("end of the VM's container", lambda: not self.runtime.running(container))
        say("deleted, the VM's guest has shut down, and its container ended")

    def restart(self, held, plugin):
        """The kubelet ends and comes again: pods stay, and the plugin registers by itself."""
        self.kubelet.stop()
        say("the kubelet has ended")
        self.kubelet.start()
        self.offers(ALL, "after the kubelet's restart")
        self.registered("after the kubelet's restart")
        expect("the plugin's container is the same", self.runs("plugin", "device-plugin") == plugin, True)
        self.still_holds(held, "after the kubelet's restart")

    def end_plugin(self, held):
        """The plugin ends, and another comes."""
        node.take_away("plugin")
        # It forgets these only after minutes, and writes nothing down until then.
        self.offers(dict.fromkeys(ALL, 0), "without the plugin", noted=False)
        self.refused("orphan", 1)
        node.put(self.plugin)
        self.offers(ALL, "with another plugin")
        self.still_holds(held, "with another plugin")

    def lose_device(self, held):
        """The device vanishes, and is back; something else is in its place, and it is back."""
        aside = DEVICE.with_name("kvm.aside")
        DEVICE.rename(aside)
        self.offers(ALL | {KVM: 0}, "without /dev/kvm")
        self.still_holds(held, "without /dev/kvm")
        self.refused("late", 1)
        aside.rename(DEVICE)
        self.offers(ALL, "with /dev/kvm again")
        DEVICE.rename(aside)
        os.mknod(DEVICE, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        self.offers(ALL | {KVM: 0}, "with another device as /dev/kvm")
        DEVICE.unlink()
        aside.rename(DEVICE)
        self.offers(ALL, "with the right one again")
        self.still_holds(held, "with the right one again")

    def tell(self):
        """All of it."""
        self.kubelet.start()
        say("the kubelet runs")
        node.put(self.plugin)
        plugin = self.runs("plugin", "device-plugin")
        self.offers(ALL, "when the plugin has started")
        self.registered("when the plugin has started")
        held = self.hold()
        self.refused("greedy", SLOTS)
        self.restart(held, plugin)
        self.lose_device(held)
        self.end_plugin(held)
        self.run_vm()
        node.take_away("holder")
        wait_for("end of the holder", lambda: not self.kubelet.pod("holder"))
        wait_for("end of what it held", lambda: self.kubelet.resources()["held"] == {})
        say("what it held is free again")


def main(programs, work):
    """Everything; the status is 1 if something was not as it has to be."""
    try:
        Story(programs, work).tell()
    except BaseException:
        node.last_words()
        raise


if __name__ == "__main__":
    try:
        main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
    except Failed as error:
        say(f"FAILED: {error}")
        sys.exit(1)
