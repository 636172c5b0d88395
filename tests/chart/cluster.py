"""What takes a cluster: that the password of the screen and a claim's access mode are kept, and what an
installation prints.

The cluster is a small HTTP server on loopback that knows one Secret and one claim, and as much of
Kubernetes' discovery as Helm asks for.
"""

import base64
import contextlib
import gzip
import http.server
import json
import tempfile
import threading

from helm import CHART, HELMS, at, render, run
from values import values_of



def resources(group_version, *kinds):
    listed = [{"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get"]} for name, kind in kinds]
    return {"kind": "APIResourceList", "groupVersion": group_version, "resources": listed}


APPS = {"groupVersion": "apps/v1", "version": "v1"}
DISCOVERY = {
    "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [{"name": "apps", "versions": [APPS], "preferredVersion": APPS}]},
    "/api/v1": resources("v1", ("secrets", "Secret"), ("persistentvolumeclaims", "PersistentVolumeClaim"),
                         ("services", "Service"), ("pods", "Pod")),
    # Helm keeps its releases there; this is the first.
    "/api/v1/namespaces/vms/secrets": {"kind": "SecretList", "apiVersion": "v1", "items": []},
    "/apis/apps/v1": resources("apps/v1", ("statefulsets", "StatefulSet"), ("daemonsets", "DaemonSet")),
}
# What says that an object is of this release; Helm touches no other.
OURS = {
    "namespace": "vms", "labels": {"app.kubernetes.io/managed-by": "Helm"},
    "annotations": {"meta.helm.sh/release-name": "berth", "meta.helm.sh/release-namespace": "vms"},
}
OBJECTS = {
    "/api/v1/namespaces/vms/secrets/berth-vm.vnc": {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "berth-vm.vnc", **OURS}, "data": {"password": "a2VwdGtlcHQ="}},
    "/api/v1/namespaces/vms/persistentvolumeclaims/berth-vm": {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "berth-vm", **OURS},
        "spec": {"accessModes": ["ReadWriteOnce"]}},
}


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0]
        known = {**DISCOVERY, **self.server.objects}
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(known.get(path, missing)).encode()
        self.send_response(200 if path in known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def cluster(objects):
    """A cluster with `objects`, as flags that lead Helm to it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.objects = objects
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}], "users": [{"name": "it", "user": {}}],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        try:
            yield ["--dry-run=server", "--disable-openapi-validation", "--kubeconfig", file.name]
        finally:
            server.shutdown()
            server.server_close()


def check_what_is_there_is_kept():
    with cluster(OBJECTS) as flags:
        for helm in HELMS:
            objects = render(values_of(""), flags, helm)
            assert at(objects, "Secret/berth-vm.vnc data password") == "a2VwdGtlcHQ=", helm
            assert at(objects, "PersistentVolumeClaim/berth-vm spec accessModes") == ["ReadWriteOnce"], helm


def check_what_is_asked_for_is_done():
    with cluster(OBJECTS) as flags:
        objects = render(values_of("{vnc: {password: other}, vmconfig: {rootfs: {pvc_access_mode: ReadWriteMany}}}"), flags)
    assert at(objects, "Secret/berth-vm.vnc data password") == "b3RoZXI="
    assert at(objects, "PersistentVolumeClaim/berth-vm spec accessModes") == ["ReadWriteMany"]


def check_what_is_not_there_is_made():
    with cluster({}) as flags:
        passwords = {at(render(values_of(""), flags), "Secret/berth-vm.vnc data password") for _ in range(2)}
        objects = render(values_of(""), flags)
    assert len(passwords) == 2 and all(len(password) == 12 for password in passwords)
    assert at(objects, "PersistentVolumeClaim/berth-vm spec accessModes") == ["ReadWriteOncePod"]


def notes(helm, flags, *arguments):
    """What an installation of an example prints."""
    example = CHART / "examples" / "cirros.yaml"
    kubeconfig = [flag for flag in flags if not flag.startswith("--dry-run")]
    said = run(helm, "install", "berth", CHART, "--namespace", "vms", "--dry-run=client", "--values", example, *arguments, *kubeconfig)
    return said.partition("\nNOTES:\n")[2]


def installed(helm, *arguments):
    """What the cluster has of an installation of an example: the Secret in which Helm keeps it."""
    example = CHART / "examples" / "cirros.yaml"
    with cluster({}) as flags:
        said = run(helm, "install", "berth", CHART, "--namespace", "vms", "--dry-run=client", "--values", example, "--output", "json",
                   *arguments, *flags[1:])
    release = json.loads(said) | {"version": 1, "namespace": "vms", "manifest": "", "hooks": []}
    release["info"]["status"] = "deployed"
    # Helm's encoding within the Secret's.
    data = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(release).encode()))).decode()
    name = "sh.helm.release.v1.berth.v1"
    labels = {"owner": "helm", "name": "berth", "status": "deployed", "version": "1"}
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1", "data": {"release": data},
              "metadata": {"name": name, "namespace": "vms", "labels": labels}}
    path = "/api/v1/namespaces/vms/secrets"
    return {path: {"kind": "SecretList", "apiVersion": "v1", "items": [secret]}, f"{path}/{name}": secret}


def check_all_vms_can_be_removed_and_the_rest_stays():
    """The command of docs/helm.md."""
    for helm in HELMS:
        with cluster(installed(helm, "--set", "images.vmrunner=registry.example/berth:1")) as flags:
            said = run(helm, "upgrade", "berth", CHART, "--namespace", "vms", "--reuse-values", "--set", "vmlist={}", "--output", "json", *flags)
        text = json.loads(said)["manifest"]
        assert "kind: DaemonSet" in text and "kind: StatefulSet" not in text, (helm, text)
        assert "image: registry.example/berth:1" in text, (helm, text)


def check_notes_say_how_to_reach_a_vm():
    with cluster({}) as flags:
        for helm in HELMS:
            said = notes(helm, flags, "--set", "vmlist.off.enabled=false")
            for words in ("logs -f berth-cirros-test-0", "berth console", "ssh USER@", "port-forward berth-cirros-test-0 5900",
                          "get secret berth-cirros-test.vnc", "{{.data.password | base64decode}}", "VM off is not enabled"):
                assert words in said, (helm, words, said)
            said = notes(helm, flags, "--set", "vmlist={}", "--set", "device_plugin.enabled=false")
            for words in ("There are no VMs", "get pvc -l app.kubernetes.io/instance=berth", "plugin is switched off"):
                assert words in said, (helm, words, said)
