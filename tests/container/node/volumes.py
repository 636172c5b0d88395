"""Volumes of a pod, as directories of this machine.

A Secret or a ConfigMap is laid out as the kubelet does it: the files are links through `..data`, a
link that is exchanged when the object changes. A claim is a file system of the size that it asks for,
or a block device without one, and stays; the rest goes with the pod.
"""

import base64
import os
import pathlib
import subprocess
import time

from fields import Fields, Unsupported
from resources import quantity


def contents(thing):
    """The keys of a Secret or ConfigMap, as bytes."""
    with Fields(thing, f"{thing['kind']}/{thing['metadata']['name']}") as fields:
        fields.ignore("apiVersion", "metadata")
        fields.expect("type", "Opaque")
        data = fields.take("data", dict, {})
        if fields.take("kind", str) == "Secret":
            return {key: base64.b64decode(value, validate=True) for key, value in data.items()}
        return {key: value.encode() for key, value in data.items()}


def write_keys(directory, files, group):
    """Writes files {name: bytes}, or others in their place, as the kubelet does."""
    before = os.path.realpath(directory / "..data") if (directory / "..data").is_symlink() else None
    new = directory / time.strftime(f"..%Y_%m_%d_%H_%M_%S.{time.monotonic_ns() % 10**9}")
    new.mkdir(mode=0o755)
    for name, data in files.items():
        (new / name).write_bytes(data)
        (new / name).chmod(0o644)
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    give(new, group, writable=False)
    (directory / "..data_tmp").symlink_to(new.name)
    (directory / "..data_tmp").rename(directory / "..data")
    if before:
        for file in pathlib.Path(before).iterdir():
            file.unlink()
        os.rmdir(before)


def give(top, group, writable):
    """What fsGroup does: everything belongs to the group, which may read, or write; and so do new files."""
    if group is None:
        return
    for parent, _, names in os.walk(top):
        for path in [parent, *(os.path.join(parent, name) for name in names)]:
            os.chown(path, -1, group, follow_symlinks=False)
            if not os.path.islink(path):
                mode = os.stat(path).st_mode & 0o7777 | (0o660 if writable else 0o440)
                os.chmod(path, mode | (0o2110 if os.path.isdir(path) else 0))


def claimed(thing):
    """What a PersistentVolumeClaim asks for: whether it is a block device, and how many bytes."""
    with Fields(thing["spec"], f"PersistentVolumeClaim/{thing['metadata']['name']}") as spec:
        is_block = spec.expect("volumeMode", "Filesystem", "Block") == "Block"
        spec.ignore("storageClassName", "accessModes")
        with spec.below("resources") as resources, resources.below("requests") as requests:
            return is_block, int(quantity(requests.take("storage", str)))


class Volumes:
    """The volumes of one pod. `claims` is where those live that outlive it."""

    def __init__(self, wanted, find, place, claims, group):
        self._find, self._place, self._claims, self._group = find, place, claims, group
        self._mounted, self._attached = [], []
        self.paths = {}
        for fields in wanted:
            with fields:
                name = fields.take("name", str)
                kinds = fields.keys()
                if len(kinds) != 1 or not hasattr(self, f"_{kinds[0]}"):
                    raise Unsupported(f"{fields.path}: volumes of the kind {', '.join(kinds)}")
                with fields.below(kinds[0]) as source:
                    self.paths[name] = getattr(self, f"_{kinds[0]}")(name, source)

    def path(self, name, sub_path, where):
        """Where a volume, or what is in it, is on this machine."""
        if name not in self.paths:
            raise Unsupported(f"{where}: there is no volume {name}")
        path = self.paths[name]
        if path.is_block_device():
            raise Unsupported(f"{where}: the volume {name} is a block device, and is not mounted")
        if not sub_path:
            return path
        if sub_path.startswith("/") or ".." in sub_path.split("/"):
            raise Unsupported(f"{where}: subPath {sub_path}")
        # The kubelet binds what the links lead to.
        found = (path / sub_path).resolve()
        if not found.exists():
            raise Unsupported(f"{where}: volume {name} has no {sub_path}")
        return found

    def device(self, name, where):
        """The device that a volume is."""
        if name not in self.paths or not self.paths[name].is_block_device():
            raise Unsupported(f"{where}: there is no volume {name} that is a block device")
        return self.paths[name]

    def rewrite(self, name, files):
        """Another content of the Secret or ConfigMap that a volume shows."""
        write_keys(self.paths[name], files, self._group)

    def close(self):
        """Unmounts what was mounted for the pod, and takes its devices away."""
        for path in reversed(self._mounted):
            subprocess.run(["umount", path], check=True)
        self.detach()

    def detach(self):
        """Takes the devices away, which no namespace does that ends."""
        while self._attached:
            subprocess.run(["losetup", "--detach", self._attached.pop()], check=True)

    def _mount(self, path, *arguments):
        path.mkdir(parents=True)
        subprocess.run(["mount", *arguments, path], check=True)
        self._mounted.append(path)

    def _emptyDir(self, name, fields):  # pylint: disable=invalid-name
        path = self._place / name
        size = int(quantity(fields.take("sizeLimit", str, "0")))
        if fields.expect("medium", "Memory"):
            self._mount(path, "-t", "tmpfs", "-o", f"size={size or '50%'},mode=0777", "tmpfs")
        else:
            path.mkdir(parents=True)
            path.chmod(0o777)
        give(path, self._group, writable=True)
        return path

    def _secret(self, name, fields):
        return self._keys(name, fields, "Secret", fields.take("secretName", str))

    def _configMap(self, name, fields):  # pylint: disable=invalid-name
        return self._keys(name, fields, "ConfigMap", fields.take("name", str))

    def _keys(self, name, fields, kind, wanted):
        fields.expect("optional", False)
        fields.expect("defaultMode", 0o644)
        data = contents(self._find(kind, wanted))
        items = list(fields.each("items"))
        if items:
            chosen = {}
            for item in items:
                with item:
                    key, path = item.take("key", str), item.take("path", str)
                    if key not in data or "/" in path:
                        raise Unsupported(f"{item.path}: {kind} {wanted} has no {key}, or it is put deeper")
                    chosen[path] = data[key]
            data = chosen
        directory = self._place / name
        directory.mkdir(parents=True, mode=0o755)
        write_keys(directory, data, self._group)
        return directory

    def _persistentVolumeClaim(self, name, fields):  # pylint: disable=invalid-name
        claim = fields.take("claimName", str)
        fields.expect("readOnly", False)
        thing = self._find("PersistentVolumeClaim", claim)
        is_block, size = claimed(thing)
        image = self._claims / claim
        if is_new := not image.exists():
            with image.open("wb") as file:
                file.truncate(size)
        if is_block:
            done = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True)
            self._attached.append(done.stdout.strip())
            return pathlib.Path(self._attached[-1])
        if is_new:
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", image], check=True)
        path = self._place / name
        self._mount(path, "-o", "loop", image)
        give(path, self._group, writable=True)
        return path

    def _hostPath(self, _name, fields):  # pylint: disable=invalid-name
        path = pathlib.Path(fields.take("path", str))
        fields.expect("type", "Directory")
        if not path.is_dir():
            raise Unsupported(f"{fields.path}: this machine has no directory {path}")
        return path
