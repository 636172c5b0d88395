"""Values that are refused, by a sentence that names where and what: (values, words of the sentence)."""

import yaml

from helm import HELMS, Refused, render
from values import values_of

# Of the schema Helm itself speaks: at '/vmlist/vm/...': got string, want integer.
TABLE = [
    # The original's own three.
    ("---\n{vmlist: [wrong]}", ["vmlist is a list", "wrong", "map from a VM's name"]),
    ("---\n{vmlist: [{bogus-vm: null, enabled: false, extra: thang, vmconfig: this is wrong}]}", ["vmlist is a list", "bogus-vm"]),
    ("---\n{vmlist: {somevm: {enabled: \"can't be bothered\", extra: peanuts}}}", ["/vmlist/somevm/enabled", "boolean"]),
    # Wrong types.
    ("---\n{vmlist: some}", ["/vmlist", "string"]),
    ("---\n{vmlist: {vm: wrong}}", ["/vmlist/vm", "object"]),
    ("{vmconfig: this is wrong}", ["/vmlist/vm/vmconfig", "got string", "object"]),
    ("{vmconfig: {cpu: {vcpu: two}}}", ["/vmlist/vm/vmconfig/cpu/vcpu", "got string, want integer"]),
    ("{vmconfig: {cpu: {vcpu: 0}}}", ["/vmlist/vm/vmconfig/cpu/vcpu", "minimum"]),
    ("{vmconfig: {cpu: {vcpu: 65}}}", ["/vmlist/vm/vmconfig/cpu/vcpu", "maximum", "64"]),
    ("{vmconfig: {cpu: {ram_mb: 2G}}}", ["/vmlist/vm/vmconfig/cpu/ram_mb", "integer"]),
    ("{vmconfig: {cpu: {hugepages: 4Mi}}}", ["/vmlist/vm/vmconfig/cpu/hugepages", "4Mi", "2Mi|1Gi"]),
    ("{vmconfig: {cpu: {hugepages: true}}}", ["/vmlist/vm/vmconfig/cpu/hugepages"]),
    ("{cloudconfig: {userdata: false}}", ["/vmlist/vm/cloudconfig/userdata", "got boolean", "string"]),
    ("{netconfig: {ports: [22]}}", ["/vmlist/vm/netconfig/ports", "got array", "object"]),
    ("{netconfig: {ports: {ssh: 70000}}}", ["/vmlist/vm/netconfig/ports/ssh", "maximum"]),
    ("{netconfig: {mode: bridge}}", ["/vmlist/vm/netconfig/mode", "bridge", "pod|direct"]),
    ("{vmconfig: {rootfs: {pvc_size: 10GB}}}", ["/vmlist/vm/vmconfig/rootfs/pvc_size", "10GB"]),
    ("{vmconfig: {boot: grub}}", ["/vmlist/vm/vmconfig/boot", "uefi"]),
    ("---\n{images: berth}", ["/images", "got string, want object"]),
    ("---\n{vmdefaults: {vmconfig: {cpu: {vcpu: many}}}}", ["/vmdefaults/vmconfig/cpu/vcpu", "integer"]),
    # Unknown keys.
    ("{vmconfg: {}}", ["/vmlist/vm", "vmconfg", "not allowed"]),
    ("{cloudconfig: {bogus_not_used: x}}", ["/vmlist/vm/cloudconfig", "bogus_not_used", "not allowed"]),
    ("{vmconfig: {cpu: {cores: 2}}}", ["/vmlist/vm/vmconfig/cpu", "cores", "not allowed"]),
    ("---\n{vmlst: {}}", ["vmlst", "not allowed"]),
    ("---\n{device_plugin: {resources: {gpu: x}}}", ["/device_plugin/resources", "gpu", "not allowed"]),
    # What a schema cannot say.
    ("{vmconfig: {rootfs: {sourceurl: ''}}}", ["vmlist.vm.vmconfig.rootfs.sourceurl is missing", "http"]),
    ("{vmconfig: {rootfs: {sourceurl: disk.img}}}", ["vmlist.vm.vmconfig.rootfs.sourceurl is \"disk.img\"", "http://"]),
    ("{vmconfig: {rootfs: {localtarget: a/b}}}", ["vmlist.vm.vmconfig.rootfs.localtarget", "a/b", "without /"]),
    ("{vmconfig: {rootfs: {localtarget: vm.qcow2}}}", ["vmlist.vm.vmconfig.rootfs.localtarget", "vm.qcow2", "own disk"]),
    ("{vmconfig: {rootfs: {block_claim: x}}}", ["vmlist.vm.vmconfig.rootfs", "both sourceurl and block_claim"]),
    ("{vmconfig: {cpu: {hugepages: 1Gi, ram_mb: 1536}}}", ["vmlist.vm.vmconfig.cpu.ram_mb is 1536", "1Gi", "multiple of 1024", "2048"]),
    ("{vmconfig: {cpu: {hugepages: 1Gi, ram_mb: 512}}}", ["vmlist.vm.vmconfig.cpu.ram_mb is 512", "such as 1024"]),
    ("{vmconfig: {cpu: {hugepages: 2Mi, ram_mb: 1025}}}", ["vmlist.vm.vmconfig.cpu.ram_mb is 1025", "2Mi", "multiple of 2,", "1026"]),
    ("---\n{vmdefaults: {vmconfig: {cpu: {hugepages: 1Gi}}}, vmlist: {vm: {vmconfig: {cpu: {ram_mb: 1025}}}}}", ["ram_mb is 1025", "1Gi"]),
    ("{vmconfig: {disks: {a: {}}}}", ["vmlist.vm.vmconfig.disks.a", "neither size nor existing"]),
    ("{vmconfig: {disks: {A_b: {size: 1Gi}}}}", ["vmlist.vm.vmconfig.disks", "A_b"]),
    ("{netconfig: {ports: {SSH: 22}}}", ["vmlist.vm.netconfig.ports", "SSH"]),
    ("{netconfig: {ports: {dns: {protocol: UDP}}}}", ["vmlist.vm.netconfig.ports.dns.port is missing"]),
    ("{netconfig: {ports: {a: 80, b: 80}}}", ["vmlist.vm.netconfig.ports.b is 80/TCP, and so is a"]),
    ("{netconfig: {service: {enabled: true}}}", ["vmlist.vm.netconfig.service.enabled", "ports is empty"]),
    ("{netconfig: {mode: none, readinessTcpProbe: 22}}", ["vmlist.vm.netconfig", "mode is none"]),
    ("{netconfig: {mode: none, network_policy: {enabled: true}}}", ["vmlist.vm.netconfig.network_policy", "mode none"]),
    ("{netconfig: {readinessTcpProbe: 5900}}", ["vmlist.vm.netconfig.readinessTcpProbe is 5900"]),
    ("{netconfig: {address: 10.0.0.2}}", ["vmlist.vm.netconfig has one of address", "10.0.0.2", "both or none"]),
    ("{cloudconfig: {userdata: x, existing: {name: mine}}}", ["vmlist.vm.cloudconfig", "mine", "userdata"]),
    ("{cloudconfig: {existing: {name: mine, keys: []}}}", ["vmlist.vm.cloudconfig.existing.keys is empty"]),
    ("{vnc: {password: a, existing_secret: b}}", ["vmlist.vm.vnc has both"]),
    ("---\n{vmlist: {Some_VM: {enabled: true, vmconfig: {rootfs: {sourceurl: /x}}}}}", ["vmlist", "Some_VM", "a-z, 0-9 and -"]),
    ("---\n{vmlist: {%s: {enabled: true, vmconfig: {rootfs: {sourceurl: /x}}}}}" % ("x" * 47), ["vmlist.xxx", "53 characters", "52"]),
    ("---\n{vmlist: {vm: {netconfig: {ports: {a: 1}, service: {enabled: true}}}, vm-ports: {enabled: true, vmconfig: {rootfs: "
     "{sourceurl: /x}}}}}", ["vmlist.vm-ports", "Service"]),
    ("---\n{imagecache: {enabled: true}, vmlist: {two: {enabled: true, vmconfig: {rootfs: {sourceurl: 'http://other/disk.qcow2'}}}}}",
     ["localtarget", "disk.qcow2", "image cache"]),
    ("---\n{device_plugin: {resources: {kvm: ''}}}", ["device_plugin.resources.kvm is empty", "berth.dev/kvm"]),
]


def row(text, words):
    def check():
        values = yaml.safe_load(text[4:]) if text.startswith("---\n{vmlist: [") else values_of(text)
        for helm in HELMS:
            try:
                render(values, helm=helm)
            except Refused as refused:
                said = str(refused)
                assert all(word in said for word in words), (helm, words, said)
                assert "nil pointer" not in said and "Use --debug" not in said.splitlines()[0], said
            else:
                raise AssertionError(f"{helm} accepts it")

    check.__name__ = f"refused: {text.removeprefix(chr(45) * 3).strip()[:90]}"
    return check


CHECKS = [row(*one) for one in TABLE]
