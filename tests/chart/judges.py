"""What rendered objects are held against: Kubernetes' own schemas, and Pod Security's `restricted`.

The schemas are Kubernetes' OpenAPI definitions, as the package kubernetes-validate brings them along.
Kinds that Kubernetes does not define (ServiceMonitor) are not looked at.
"""

import functools
import json

import kubernetes_validate

from helm import pods

# It reads megabytes of definitions for each object, the same ones.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)

# The oldest that the chart is for, one between, and the newest that the package knows.
VERSIONS = ["1.27.0", "1.32.0", "1.37.0"]
FOREIGN = {"ServiceMonitor"}
# https://kubernetes.io/docs/concepts/security/pod-security-standards/, "restricted".
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}


def against_schemas(objects):
    """Complaints of Kubernetes' schemas, strictly: unknown fields are errors."""
    complaints = []
    for key, thing in objects.items():
        text = json.dumps(thing, sort_keys=True)
        if thing["kind"] in FOREIGN or text in accepted:
            continue
        found = []
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(thing, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                found.append(f"{version}: {key}: {list(error.path)}: {error.message}")
        complaints += found
        if not found:
            accepted.add(text)
    return complaints


# Objects that were looked at, as text: most are rendered again and again.
accepted = set()


def restricted(metadata, spec):
    """What of a pod is not `restricted`, as short texts."""
    found = []
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            found.append(field)
    for volume in spec.get("volumes", []):
        found += [f"volume {kind}" for kind in volume if kind != "name" and kind not in VOLUMES]
    pod = spec.get("securityContext", {})
    found += [f"sysctl {one['name']}" for one in pod.get("sysctls", []) if one["name"] not in SAFE_SYSCTLS]
    if any(key.startswith("container.apparmor.security") for key in metadata.get("annotations", {})):
        found.append("AppArmor")
    for container in spec.get("initContainers", []) + spec["containers"]:
        found += container_not_restricted(container, pod)
    return sorted(set(found))


def container_not_restricted(container, pod):
    own = container.get("securityContext", {})
    either = lambda field: own.get(field, pod.get(field))
    capabilities = own.get("capabilities", {})
    found = []
    if own.get("privileged"):
        found.append("privileged")
    if own.get("allowPrivilegeEscalation") is not False:
        found.append("allowPrivilegeEscalation")
    if either("runAsNonRoot") is not True:
        found.append("runAsNonRoot")
    if either("runAsUser") == 0:
        found.append("runAsUser 0")
    if (either("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("seccompProfile")
    if "ALL" not in capabilities.get("drop", []):
        found.append("capabilities not dropped")
    found += [f"capability {one}" for one in capabilities.get("add", []) if one != "NET_BIND_SERVICE"]
    found += [f"hostPort {port['hostPort']}" for port in container.get("ports", []) if port.get("hostPort")]
    if own.get("procMount", "Default") != "Default":
        found.append("procMount")
    # Not asked by Pod Security, but by us.
    if own.get("readOnlyRootFilesystem") is not True:
        found.append("root filesystem is writable")
    return found


def not_restricted(objects):
    """{"Kind/name": what is not restricted} of every pod."""
    return {key: restricted(metadata, spec) for key, metadata, spec in pods(objects)}


def consistent(objects):
    """What no schema knows: that names lead somewhere, and selectors select what they are for."""
    complaints = []
    for key, metadata, spec in pods(objects):
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        if len(volumes) != len(spec.get("volumes", [])):
            complaints.append(f"{key}: a volume is named twice")
        for container in spec.get("initContainers", []) + spec["containers"]:
            used = container.get("volumeMounts", []) + container.get("volumeDevices", [])
            complaints += [f"{key}: no volume {one['name']}" for one in used if one["name"] not in volumes]
            places = [one.get("mountPath", one.get("devicePath")) for one in used]
            ports = [(port["containerPort"], port["protocol"]) for port in container.get("ports", [])]
            for what in (places, ports, [one["name"] for one in container.get("env", [])]):
                complaints += [f"{key}: {one} twice" for one in set(what) if what.count(one) > 1]
        complaints += [f"{key}: nobody makes {one}" for one in missing(objects, spec)]
        thing = objects[key]
        if thing["kind"] != "Pod":
            wanted = thing["spec"]["selector"]["matchLabels"].items()
            if not wanted <= metadata["labels"].items():
                complaints.append(f"{key}: its selector does not select its pods")
    for key, thing in objects.items():
        if thing["metadata"].get("namespace") != "vms":
            complaints.append(f"{key}: not in the release's namespace")
    return complaints


def missing(objects, spec):
    """What a pod refers to under the release's name and is not rendered."""
    for volume in spec.get("volumes", []):
        names = [
            f"PersistentVolumeClaim/{volume.get('persistentVolumeClaim', {}).get('claimName')}",
            f"Secret/{volume.get('secret', {}).get('secretName')}",
            f"ConfigMap/{volume.get('configMap', {}).get('name')}",
        ]
        yield from (name for name in names if "/berth" in name and name not in objects)
