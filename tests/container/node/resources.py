"""What a container asks of its node: memory, huge pages, processors, devices."""

import dataclasses
import decimal
import os
import pathlib
import stat

from fields import Unsupported

SUFFIXES = {"m": "0.001", "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
            "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
# As the kubelet has them.
CPU_PERIOD_US = 100_000
MIN_SHARES, MIN_QUOTA_US = 2, 1000
# Block devices as udev makes them on nodes: they are root's, and the group disk's.
BLOCK_MODE, BLOCK_USER, BLOCK_GROUP = 0o660, 0, 6
# Huge pages: how resources are called, and the OCI runtime's names and the kernel's of their sizes.
HUGE = "hugepages-"
HUGE_PAGES = {"2Mi": ("2MB", "hugepages-2048kB"), "1Gi": ("1GB", "hugepages-1048576kB")}
POOLS = pathlib.Path("/sys/kernel/mm/hugepages")


def quantity(text):
    """A Kubernetes quantity, such as 100m or 326Mi."""
    text = str(text)
    number = text.rstrip("KMGTikm")
    suffix = text[len(number):]
    try:
        return decimal.Decimal(number) * decimal.Decimal(SUFFIXES[suffix])
    except (decimal.InvalidOperation, KeyError):
        raise Unsupported(f"{text!r} is no quantity") from None


@dataclasses.dataclass
class Resources:
    """A container's requests and limits; devices by resource name, bytes of huge pages by their size."""

    requests: dict
    limits: dict
    devices: dict
    huge_pages: dict

    @classmethod
    def of(cls, fields):
        asked = {}
        for kind in ("requests", "limits"):
            with fields.below(kind, {}) as given:
                asked[kind] = {key: quantity(given.take(key, (str, int))) for key in given.keys()}
        fields.close()
        # A limit alone is a request too.
        asked["requests"] = asked["limits"] | asked["requests"]
        devices, huge_pages = {}, {}
        for name in [name for name in asked["requests"] if name.startswith(HUGE)]:
            amount, size = asked["requests"].pop(name), name.removeprefix(HUGE)
            # The API server takes nothing else.
            if size not in HUGE_PAGES or amount % quantity(size) or asked["limits"].pop(name, None) != amount:
                raise Unsupported(f"{fields.path}: {name}: {amount}, which is not limited to itself, or no multiple of the size")
            huge_pages[size] = int(amount)
        for kind, amounts in asked.items():
            for name in list(amounts):
                if name not in ("cpu", "memory"):
                    count = amounts.pop(name)
                    if "/" not in name or count != int(count) or devices.setdefault(name, int(count)) != count:
                        raise Unsupported(f"{fields.path}.{kind}: {name}: {count}")
        return cls(asked["requests"], asked["limits"], devices, huge_pages)

    def cgroup(self):
        """The limits, as the kubelet gives them to the runtime."""
        shares = max(MIN_SHARES, int(self.requests.get("cpu", 0) * 1024))
        limits = {"cpu": {"shares": shares}}
        if "cpu" in self.limits:
            quota = max(MIN_QUOTA_US, int(self.limits["cpu"] * CPU_PERIOD_US))
            limits["cpu"] |= {"quota": quota, "period": CPU_PERIOD_US}
        if "memory" in self.limits:
            memory = int(self.limits["memory"])
            limits["memory"] = {"limit": memory, "swap": memory}
        # Who has not asked for any has none.
        limits["hugepageLimits"] = [
            {"pageSize": name, "limit": self.huge_pages.get(size, 0)}
            for size, (name, pool) in HUGE_PAGES.items() if (POOLS / pool).exists()
        ]
        return limits

    def set_aside(self):
        """Has the node set the huge pages aside, as its administrator would: what it could not do is an error."""
        for size, amount in self.huge_pages.items():
            pool = POOLS / HUGE_PAGES[size][1] / "nr_hugepages"
            wanted = int(amount / quantity(size)) + int(pool.read_text())
            pool.write_text(str(wanted))
            if int(pool.read_text()) != wanted:
                raise Unsupported(f"this node has only {pool.read_text().strip()} huge pages of {size}, not {wanted}")


def oom_score_adj(every):
    """What the kubelet gives each of a pod's containers, by the pod's class of service."""
    amounts = [one.limits.get(name) for one in every for name in ("cpu", "memory")]
    if None not in amounts and all(one.requests == one.limits for one in every):
        return [-997 for _ in every]
    with open("/proc/meminfo", encoding="ascii") as file:
        capacity = int(file.readline().split()[1]) * 1024
    if not any(one.requests or one.limits for one in every):
        return [1000 for _ in every]
    share = [1000 - int(1000 * one.requests.get("memory", 0) / capacity) for one in every]
    return [min(max(score, 3), 999) for score in share]


def block_device(source, path):
    """An entry of linux.devices and the cgroup's rule for a volume that is a block device."""
    found = os.stat(source)
    number = {"type": "b", "major": os.major(found.st_rdev), "minor": os.minor(found.st_rdev)}
    node = number | {"path": path, "fileMode": BLOCK_MODE, "uid": BLOCK_USER, "gid": BLOCK_GROUP}
    return node, number | {"allow": True, "access": "rwm"}


def device_nodes(specs):
    """linux.devices and the cgroup's rules, of what a device plugin has answered for a container."""
    nodes, rules = [], []
    for spec in specs:
        with spec:
            path = spec.take("container_path", str)
            source = spec.take("host_path", str)
            access = spec.take("permissions", str)
        found = os.stat(source)
        if not stat.S_ISCHR(found.st_mode):
            raise Unsupported(f"{source} is no character device")
        number = {"type": "c", "major": os.major(found.st_rdev), "minor": os.minor(found.st_rdev)}
        nodes.append(number | {"path": path, "fileMode": stat.S_IMODE(found.st_mode), "uid": found.st_uid, "gid": found.st_gid})
        rules.append(number | {"allow": True, "access": access})
    return nodes, rules
