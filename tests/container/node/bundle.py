"""A pod as a node runs it: what the kubelet makes of the pod's specification, and containerd's CRI
plugin of that, as bundles for an OCI runtime.

The devices are those that a device plugin's Allocate has answered with. Everything in the
specification is either done, or checked to be what is done anyway, or refused by name.
"""

import dataclasses
import json
import pathlib
import re
import subprocess

from fields import Fields, Unsupported
from resources import Resources, block_device, device_nodes, oom_score_adj
from volumes import Volumes, contents

NODE_LABELS = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
SERVICE_ADDRESS = "10.96.0.1"
MASKED = ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
          "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
# Of the runtime's own: no container is without them.
DEVICE_RULES = [{"allow": False, "access": "rwm"}] + [
    {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
    for major, minor in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None)]
]


@dataclasses.dataclass
class Sandbox:
    """What the node and its network have settled before a container starts."""

    name: str
    namespace: str
    uid: str
    address: str
    network: str
    hosts: pathlib.Path
    resolv_conf: pathlib.Path


@dataclasses.dataclass
class Image:
    """An image, unpacked: its reference, root file system and configuration."""

    reference: str
    root: pathlib.Path
    config: dict


@dataclasses.dataclass
class Container:
    """A bundle that is ready to run, and what the kubelet does with it then."""

    name: str
    id: str
    directory: pathlib.Path
    cgroup: str
    termination_message: pathlib.Path
    probes: dict
    pre_stop: list


def expand(text, variables):
    """$(NAME) in commands and values, and $$(NAME) for $(NAME) itself."""
    def one(match):
        if match[0].startswith("$$"):
            return match[0][1:]
        return variables.get(match[1], match[0])
    return re.sub(r"\$\$\([^)]*\)|\$\(([^)]*)\)", one, text)


class Pod:
    """A pod, from its specification; `find(kind, name)` is the API server, `allocate(devices)` the
    device manager: it answers with a list of maps as Allocate does."""

    def __init__(self, spec, sandbox, image, place, find, allocate, claims, seccomp):
        self._sandbox, self._image, self._place, self._find = sandbox, image, place, find
        self._allocate, self._seccomp = allocate, seccomp
        self._overlays = []
        place.mkdir(parents=True)
        with Fields(spec, f"pod {sandbox.name}") as fields:
            self._scheduling(fields)
            self.restart_policy = fields.expect("restartPolicy", "Always", "Never") or "Always"
            self.grace_seconds = fields.take("terminationGracePeriodSeconds", int, 30)
            self._security(fields.below("securityContext", {}))
            self.volumes = Volumes(fields.each("volumes"), find, place / "volumes", claims, self._group)
            inits, mains = list(fields.each("initContainers")), list(fields.each("containers"))
        resources = [Resources.of(each.below("resources", {})) for each in inits + mains]
        scores = oom_score_adj(resources)
        made = [self._container(*each) for each in zip(inits + mains, resources, scores)]
        self.init_containers, self.containers = made[:len(inits)], made[len(inits):]

    def close(self):
        """Takes away what was mounted."""
        for path in self._overlays:
            subprocess.run(["umount", path], check=True)
        self.volumes.close()

    def _scheduling(self, fields):
        """What is for the scheduler and for others before the kubelet."""
        for key, value in fields.take("nodeSelector", dict, {}).items():
            if NODE_LABELS.get(key) != value:
                raise Unsupported(f"{fields.path}: this node has no label {key}: {value}")
        fields.expect("automountServiceAccountToken", False)
        fields.expect("enableServiceLinks", False)
        fields.ignore("affinity", "tolerations", "topologySpreadConstraints", "priorityClassName", "imagePullSecrets",
                      "serviceAccountName")

    def _security(self, fields):
        with fields:
            self._non_root = fields.take("runAsNonRoot", bool, False)
            self._user = fields.take("runAsUser", int, None)
            self._own_group = fields.take("runAsGroup", int, None)
            self._group = fields.take("fsGroup", int, None)
            fields.expect("fsGroupChangePolicy", "OnRootMismatch", "Always")
            self._groups = fields.take("supplementalGroups", list, [])
            with fields.below("seccompProfile", {"type": "Unconfined"}) as profile:
                self._confined = profile.expect("type", "RuntimeDefault", "Unconfined") == "RuntimeDefault"
            for sysctl in fields.each("sysctls"):
                with sysctl:
                    name, value = sysctl.take("name", str), sysctl.take("value", str)
                    if not name.startswith("net."):
                        raise Unsupported(f"{sysctl.path}: the sysctl {name}")
                    subprocess.run(["ip", "netns", "exec", self._sandbox.network, "sysctl", "-qw", f"{name}={value}"],
                                   check=True)

    # ------------------------------------------------------------ a container

    def _container(self, fields, resources, score):
        with fields:
            name = fields.take("name", str)
            directory = self._place / "containers" / name
            directory.mkdir(parents=True)
            if (wanted := fields.take("image", str)) != self._image.reference:
                raise Unsupported(f"{fields.path}: the image {wanted}; {self._image.reference} is there")
            fields.expect("imagePullPolicy", "IfNotPresent", "Never", "Always")
            for port in fields.each("ports"):
                with port:
                    port.ignore("name", "containerPort", "protocol")
            process = self._process(fields, score)
            message, mounts = self._mounts(fields, directory)
            nodes, rules, more = self._devices(resources.devices, process["env"])
            for node, rule in self._volume_devices(fields):
                nodes, rules = nodes + [node], rules + [rule]
            read_only = self._container_security(fields.below("securityContext", {}), process)
            probes = {kind: fields.take(f"{kind}Probe", dict, None) for kind in ("startup", "liveness", "readiness")}
            pre_stop = self._pre_stop(fields.below("lifecycle", {}))
        cgroup = f"/kubepods/pod{self._sandbox.uid}/{name}"
        config = {
            "ociVersion": "1.0.2",
            "hostname": self._sandbox.name,
            "root": {"path": str(self._root(directory)), "readonly": read_only},
            "process": process,
            "mounts": mounts + more,
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")]
                + [{"type": "network", "path": f"/var/run/netns/{self._sandbox.network}"}],
                "cgroupsPath": cgroup,
                "devices": nodes,
                "resources": resources.cgroup() | {"devices": DEVICE_RULES + rules},
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
            },
        }
        if self._confined:
            config["linux"]["seccomp"] = self._seccomp
        (directory / "config.json").write_text(json.dumps(config, indent=1))
        return Container(name, f"{self._sandbox.uid}-{name}", directory, cgroup, message, probes, pre_stop)

    def _root(self, directory):
        """The image, under a layer of the container's own."""
        for name in ("upper", "work", "root"):
            (directory / name).mkdir()
        layers = f"lowerdir={self._image.root},upperdir={directory}/upper,workdir={directory}/work"
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", directory / "root"], check=True)
        self._overlays.append(directory / "root")
        return directory / "root"

    def _process(self, fields, score):
        image = self._image.config
        variables = dict(pair.split("=", 1) for pair in image.get("Env", []))
        variables = {"HOSTNAME": self._sandbox.name} | variables | {
            "KUBERNETES_SERVICE_HOST": SERVICE_ADDRESS,
            "KUBERNETES_SERVICE_PORT": "443",
            "KUBERNETES_SERVICE_PORT_HTTPS": "443",
            "KUBERNETES_PORT": f"tcp://{SERVICE_ADDRESS}:443",
            "KUBERNETES_PORT_443_TCP": f"tcp://{SERVICE_ADDRESS}:443",
            "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
            "KUBERNETES_PORT_443_TCP_PORT": "443",
            "KUBERNETES_PORT_443_TCP_ADDR": SERVICE_ADDRESS,
        }
        for one in fields.each("env"):
            with one:
                name = one.take("name", str)
                if "valueFrom" in one.keys():
                    value = self._value(one.below("valueFrom"))
                else:
                    value = expand(one.take("value", str, ""), variables)
                if value is not None:
                    variables[name] = value
        command, arguments = fields.strings("command"), fields.strings("args")
        if not command:
            command = image.get("Entrypoint") or []
            arguments = arguments or image.get("Cmd") or []
        return {
            "terminal": False,
            "cwd": fields.take("workingDir", str, image.get("WorkingDir") or "/"),
            "args": [expand(word, variables) for word in command + arguments],
            "env": [f"{name}={value}" for name, value in variables.items()],
            "oomScoreAdj": score,
            # What systemd gives containerd's children.
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 524288}],
        }

    def _value(self, fields):
        own = {"metadata.name": self._sandbox.name, "metadata.namespace": self._sandbox.namespace,
               "metadata.uid": self._sandbox.uid, "status.podIP": self._sandbox.address}
        with fields:
            (kind,) = fields.keys()
            with fields.below(kind) as source:
                if kind == "fieldRef":
                    source.expect("apiVersion", "v1")
                    path = source.take("fieldPath", str)
                    if path not in own:
                        raise Unsupported(f"{source.path}: the field {path}")
                    return own[path]
                kinds = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}
                if kind not in kinds:
                    raise Unsupported(f"{fields.path}: values from {kind}")
                name, key = source.take("name", str), source.take("key", str)
                optional = source.take("optional", bool, False)
        data = contents(self._find(kinds[kind], name))
        if key not in data:
            if optional:
                return None
            raise Unsupported(f"{fields.path}: {kinds[kind]} {name} has no {key}")
        return data[key].decode()

    def _mounts(self, fields, directory):
        """The file of the termination message, and all mounts."""
        fields.expect("terminationMessagePolicy", "File", "FallbackToLogsOnError")
        message = directory / "termination-log"
        message.touch()
        message.chmod(0o666)
        hostname = directory / "hostname"
        hostname.write_text(f"{self._sandbox.name}\n")
        binds = {
            fields.take("terminationMessagePath", str, "/dev/termination-log"): (message, False),
            "/etc/hostname": (hostname, False),
            "/etc/hosts": (self._sandbox.hosts, False),
            "/etc/resolv.conf": (self._sandbox.resolv_conf, False),
        }
        for mount in fields.each("volumeMounts"):
            with mount:
                name, target = mount.take("name", str), mount.take("mountPath", str)
                source = self.volumes.path(name, mount.take("subPath", str, None), mount.path)
                if target in binds:
                    raise Unsupported(f"{mount.path}: {target} is mounted twice")
                binds[target] = (source, mount.take("readOnly", bool, False))
        # What is mounted on what comes later.
        ordered = sorted(binds, key=lambda path: path.count("/"))
        return message, self._runtime_mounts() + [self._bind(path, *binds[path]) for path in ordered]

    def _volume_devices(self, fields):
        """Volumes that are block devices: each with its rule."""
        found = []
        for device in fields.each("volumeDevices"):
            with device:
                name, path = device.take("name", str), device.take("devicePath", str)
                found.append(block_device(self.volumes.device(name, device.path), path))
        return found

    @staticmethod
    def _bind(target, source, read_only):
        return {"destination": target, "type": "bind", "source": str(source),
                "options": ["rbind", "rprivate", "ro" if read_only else "rw"]}

    @staticmethod
    def _runtime_mounts():
        quiet = ["nosuid", "noexec", "nodev"]
        return [
            {"destination": path, "type": kind, "source": kind, "options": options}
            for path, kind, options in [
                ("/proc", "proc", quiet),
                ("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
                ("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
                ("/dev/mqueue", "mqueue", quiet),
                ("/dev/shm", "tmpfs", [*quiet, "mode=1777", "size=65536k"]),
                ("/sys", "sysfs", [*quiet, "ro"]),
                ("/sys/fs/cgroup", "cgroup", [*quiet, "relatime", "ro"]),
            ]
        ]

    def _devices(self, wanted, environment):
        """Device nodes, their rules, and mounts: what the device plugins have answered."""
        nodes, rules, mounts = [], [], []
        for answer in self._allocate(wanted) if wanted else []:
            with Fields(answer, "the answer of Allocate") as fields:
                environment += [f"{name}={value}" for name, value in fields.take("envs", dict, {}).items()]
                # Annotations are for runtimes that are told by them.
                fields.ignore("annotations")
                found = device_nodes(fields.each("devices"))
                nodes, rules = nodes + found[0], rules + found[1]
                for mount in fields.each("mounts"):
                    with mount:
                        mounts.append(self._bind(mount.take("container_path", str), mount.take("host_path", str),
                                                 mount.take("read_only", bool, False)))
        return nodes, rules, mounts

    def _container_security(self, fields, process):
        """Who the process is, and what it may do; the answer is whether its root is read-only."""
        with fields:
            user, group = fields.take("runAsUser", int, self._user), fields.take("runAsGroup", int, self._own_group)
            if user is None:
                words = (self._image.config.get("User") or "0").split(":")
                if not all(word.isdecimal() for word in words):
                    raise Unsupported(f"the image's user is {words}, not numbers")
                user, group = int(words[0]), int(words[-1]) if group is None else group
            if fields.take("runAsNonRoot", bool, self._non_root) and user == 0:
                raise Unsupported(f"{fields.path}: runAsNonRoot, and the user is 0")
            process["user"] = {"uid": user, "gid": group or 0,
                               "additionalGids": self._groups + ([] if self._group is None else [self._group])}
            fields.expect("privileged", False)
            process["noNewPrivileges"] = not fields.take("allowPrivilegeEscalation", bool, True)
            with fields.below("capabilities", {}) as capabilities:
                drop, add = capabilities.strings("drop"), capabilities.strings("add")
                if drop != ["ALL"]:
                    raise Unsupported(f"{capabilities.path}: what is dropped is {drop}, not ALL")
            held = [f"CAP_{name}" for name in add]
            # Inheritable and ambient ones containerd gives to nobody.
            process["capabilities"] = {kind: held for kind in ("bounding", "permitted", "effective")}
            return fields.take("readOnlyRootFilesystem", bool, False)

    @staticmethod
    def _pre_stop(fields):
        with fields:
            with fields.below("preStop", {}) as hook:
                with hook.below("exec", {}) as command:
                    return command.strings("command")


def only_vm(objects):
    """The StatefulSet of the only VM there is."""
    sets = [thing for thing in objects if thing["kind"] == "StatefulSet"]
    if len(sets) != 1:
        raise Unsupported(f"there are {len(sets)} VMs, not one")
    return sets[0]


def template(thing):
    """The pod of a StatefulSet, a DaemonSet or a Pod, as (metadata, specification)."""
    with Fields(thing, f"{thing['kind']}/{thing['metadata']['name']}") as fields:
        fields.ignore("apiVersion", "kind", "metadata")
        if thing["kind"] == "Pod":
            return thing["metadata"], fields.take("spec", dict)
        with fields.below("spec") as spec:
            # How pods are replaced, and how many there are: one, here.
            spec.expect("replicas", 1)
            spec.ignore("selector", "updateStrategy", "revisionHistoryLimit", "podManagementPolicy", "serviceName")
            with spec.below("template") as pod:
                return pod.take("metadata", dict), pod.take("spec", dict)
