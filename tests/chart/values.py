"""A table of values and what must come of them. A row: a name; values of the VM called `vm`, as YAML
(or, with a line of `---` before, of the whole chart); flags of Helm; and places with what is there."""

import copy

import yaml

import judges
from helm import ABSENT, HELMS, at, render

URL = "https://images.example.org/disk.qcow2?tag=1"
SET = "StatefulSet/berth-vm spec"
POD = f"{SET} template spec"
VM = f"{POD} containers vm"
ENV = f"{VM} env"

TABLE = [
    ("the least there is", "", [], {
        f"{SET} replicas": 1, f"{SET} podManagementPolicy": "Parallel", f"{SET} updateStrategy type": "RollingUpdate",
        f"{SET} serviceName": "berth-vm", f"{SET} volumeClaimTemplates": ABSENT, f"{VM} command": ["berth", "run"],
        f"{ENV} HOSTNAME value": "vm", f"{ENV} IMG_SOURCE value": URL, f"{ENV} IMG_TARGET": ABSENT,
        f"{ENV} IMG_VCPU value": "1", f"{ENV} IMG_RAM_MB value": "1024", f"{ENV} HUGEPAGES": ABSENT, f"{ENV} NET value": "pod",
        f"{ENV} STOP_TIMEOUT value": "25", f"{POD} terminationGracePeriodSeconds": 40,
        f"{POD} automountServiceAccountToken": False, f"{VM} terminationMessagePath": "/dev/termination-log",
        f"{VM} securityContext capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        f"{VM} resources limits": {"memory": "1100Mi", "berth.dev/kvm": 1, "berth.dev/tun": 1, "berth.dev/vhost-net": 1},
        f"{VM} resources requests": {"memory": "1100Mi", "cpu": "100m"},
        f"{VM} image": "berth:0.1.0", f"{POD} nodeSelector": {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
        "Service/berth-vm spec clusterIP": "None", "Service/berth-vm spec publishNotReadyAddresses": True,
        "Service/berth-vm-ports": ABSENT, "PodDisruptionBudget/berth-vm": ABSENT, "NetworkPolicy/berth-vm": ABSENT,
        "Secret/berth-vm.cloudconfig": ABSENT, f"{POD} volumes cloudconfig": ABSENT, f"{POD} initContainers": ABSENT,
        "PersistentVolumeClaim/berth-vm metadata annotations": {"helm.sh/resource-policy": "keep"},
        "PersistentVolumeClaim/berth-vm spec storageClassName": ABSENT,
        f"{POD} volumes image persistentVolumeClaim": {"claimName": "berth-vm"}, f"{VM} volumeMounts image mountPath": "/image",
        f"{VM} volumeMounts run mountPath": "/run"}),
    ("access mode of an older cluster", "", ["--kube-version", "1.28.9"], {
        "PersistentVolumeClaim/berth-vm spec accessModes": ["ReadWriteOnce"]}),
    ("access mode of a newer cluster", "", ["--kube-version", "v1.29.0"], {
        "PersistentVolumeClaim/berth-vm spec accessModes": ["ReadWriteOncePod"]}),
    ("access mode as told", "{vmconfig: {rootfs: {pvc_access_mode: ReadWriteMany, pvc_class: nfs, pvc_size: 3Gi}}}", [], {
        "PersistentVolumeClaim/berth-vm spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "nfs",
                                                "resources": {"requests": {"storage": "3Gi"}}}}),
    ("a claim that exists", "{vmconfig: {rootfs: {pvc_existing: vm}}}", [], {
        "PersistentVolumeClaim/berth-vm": ABSENT, f"{POD} volumes image persistentVolumeClaim claimName": "vm"}),
    ("a block volume as root disk", "{vmconfig: {rootfs: {sourceurl: '', block_claim: lv0, size: 9G}}}", [], {
        f"{VM} volumeDevices /dev/vm/root name": "root", f"{POD} volumes root persistentVolumeClaim claimName": "lv0",
        f"{ENV} IMG_SOURCE": ABSENT, f"{ENV} IMG_SIZE": ABSENT}),
    ("all of the image", "{vmconfig: {rootfs: {localtarget: b.img, sha256: 'sha256:ab', format: raw, size: 20G}}}", [], {
        f"{ENV} IMG_TARGET value": "b.img", f"{ENV} IMG_SHA256 value": "sha256:ab", f"{ENV} IMG_FORMAT value": "raw",
        f"{ENV} IMG_SIZE value": "20G"}),
    ("an image in the container", "{vmconfig: {rootfs: {sourceurl: /image.qcow2}}}", [], {
        f"{ENV} IMG_SOURCE value": "/image.qcow2"}),
    ("an image told by a Secret", "{vmconfig: {rootfs: {sourceurl: ''}}, pod: {env: [{name: IMG_SOURCE, "
     "valueFrom: {secretKeyRef: {name: s, key: k}}}]}}", [], {f"{ENV} IMG_SOURCE valueFrom secretKeyRef name": "s"}),
    ("a big machine", "{vmconfig: {cpu: {vcpu: 64, ram_mb: 4194304}}}", [], {
        f"{ENV} IMG_RAM_MB value": "4194304", f"{ENV} IMG_VCPU value": "64", f"{VM} resources requests cpu": "6400m",
        f"{VM} resources limits memory": f"{4194304 + 64 + 4 * 64 + 32768}Mi"}),
    ("overhead as told", "{resources: {overhead_mb: 10}}", [], {f"{VM} resources requests memory": "1034Mi"}),
    ("memory as requested is the limit", "{resources: {requests: {memory: 3Gi, cpu: 2}}}", [], {
        f"{VM} resources requests": {"memory": "3Gi", "cpu": 2}, f"{VM} resources limits memory": "3Gi"}),
    ("limits as told", "{resources: {limits: {cpu: '4', memory: 4Gi}}}", [], {
        f"{VM} resources limits cpu": "4", f"{VM} resources limits memory": "4Gi", f"{VM} resources requests memory": "1100Mi"}),
    ("huge pages, which are limited to what is requested, and no memory", "{vmconfig: {cpu: {hugepages: 2Mi, ram_mb: 3072}}}", [], {
        f"{ENV} HUGEPAGES value": "2Mi", f"{ENV} IMG_RAM_MB value": "3072",
        f"{VM} resources requests": {"memory": "92Mi", "cpu": "100m", "hugepages-2Mi": "3072Mi"},
        f"{VM} resources limits": {"memory": "92Mi", "hugepages-2Mi": "3072Mi", "berth.dev/kvm": 1, "berth.dev/tun": 1,
                                   "berth.dev/vhost-net": 1}}),
    ("large ones for all VMs, and for one of them none", "---\n{vmdefaults: {enabled: true, vmconfig: {cpu: {hugepages: 1Gi}}}, vmlist: {vm: "
     "{resources: {requests: {cpu: '2'}, limits: {cpu: '2'}}}, other: {vnc: {enabled: false}, vmconfig: {cpu: {hugepages: '', ram_mb: 1025}, rootfs: "
     "{sourceurl: /x}}}}}", [], {
        f"{ENV} HUGEPAGES value": "1Gi", f"{VM} resources requests": {"memory": "76Mi", "cpu": "2", "hugepages-1Gi": "1024Mi"},
        f"{VM} resources limits hugepages-1Gi": "1024Mi", f"{VM} resources limits memory": "76Mi",
        "StatefulSet/berth-other spec template spec containers vm env HUGEPAGES": ABSENT,
        "StatefulSet/berth-other spec template spec containers vm resources requests": {"memory": "1102Mi", "cpu": "100m"}}),
    ("no network", "{netconfig: {mode: none}}", [], {
        f"{VM} securityContext capabilities": {"drop": ["ALL"]}, f"{ENV} READY value": "running", f"{ENV} VHOST": ABSENT,
        f"{VM} resources limits": {"memory": "1100Mi", "berth.dev/kvm": 1}}),
    ("the guest has the pod's address", "{netconfig: {mode: direct, vhost: 'off', mtu: 1400, mac: '52:54:00:00:00:01', dhcp: false}}", [], {
        f"{ENV} NET value": "direct", f"{ENV} VHOST value": "off", f"{ENV} BERTH_MTU value": "1400", f"{ENV} NO_DHCP value": "1",
        f"{ENV} BERTH_MAC value": "52:54:00:00:00:01", f"{VM} resources limits berth.dev/vhost-net": ABSENT}),
    ("addresses", "{netconfig: {address: 10.0.0.2, gateway: 10.0.0.1}}", [], {
        f"{ENV} VM_IP value": "10.0.0.2", f"{ENV} VM_GW value": "10.0.0.1"}),
    ("a tap of somebody's", "{netconfig: {mode: 'tap:net1'}}", [], {f"{ENV} NET value": "tap:net1"}),
    ("ready when a port is open, as of old", "{netconfig: {ports: {ssh: 22, vnc: 5900}, readinessTcpProbe: 22}}", [], {
        f"{VM} readinessProbe tcpSocket": {"port": 22}, f"{VM} readinessProbe httpGet": ABSENT,
        f"{VM} ports ssh": {"name": "ssh", "containerPort": 22, "protocol": "TCP"},
        f"{VM} ports vnc containerPort": 5900, f"{VM} ports berth-vnc": ABSENT}),
    ("ready when Berth says so", "{netconfig: {ready: 'tcp:80'}}", [], {
        f"{ENV} READY value": "tcp:80", f"{VM} readinessProbe httpGet": {"path": "/readyz", "port": 5900},
        f"{VM} livenessProbe httpGet path": "/healthz", f"{VM} startupProbe httpGet path": "/healthz",
        f"{VM} startupProbe failureThreshold": 360, f"{VM} livenessProbe failureThreshold": 6}),
    ("probes as told", "{probes: {startup_seconds: 95, liveness_seconds: 0, period_seconds: 30}}", [], {
        f"{VM} startupProbe failureThreshold": 4, f"{VM} startupProbe periodSeconds": 30, f"{VM} livenessProbe": ABSENT}),
    ("no screen", "{vnc: {enabled: false}, metrics: {enabled: true}}", [], {
        f"{ENV} NO_VNC value": "1", f"{ENV} VNC_PASSWORD_FILE": ABSENT, "Secret/berth-vm.vnc": ABSENT, "Pod/berth-test": ABSENT,
        f"{VM} ports": ABSENT, f"{VM} readinessProbe exec command": ["berth", "health", "--ready"],
        f"{VM} livenessProbe exec command": ["berth", "health"], "ServiceMonitor/berth-vm": ABSENT,
        f"{POD} volumes vnc": ABSENT, "Service/berth-vm spec ports": ABSENT}),
    ("a password", "{vnc: {password: s3cr3t}}", [], {
        "Secret/berth-vm.vnc data password": "czNjcjN0", f"{ENV} VNC_PASSWORD_FILE value": "/run/secrets/berth/vnc/password"}),
    ("a password of one's own Secret", "{vnc: {existing_secret: mine}}", [], {
        "Secret/berth-vm.vnc": ABSENT, f"{POD} volumes vnc secret secretName": "mine"}),
    ("documents as text", "{cloudconfig: {metadata: '{\"uuid\": \"u\"}', userdata: \"#cloud-config\\na: 1\\n\"}}", [], {
        "Secret/berth-vm.cloudconfig data": {"metadata": "eyJ1dWlkIjogInUifQ==", "userdata": "I2Nsb3VkLWNvbmZpZwphOiAxCg=="},
        f"{VM} volumeMounts /metadata subPath": "metadata", f"{VM} volumeMounts /userdata subPath": "userdata",
        f"{VM} volumeMounts /networkdata": ABSENT, f"{SET} template metadata annotations berth.dev/cloudconfig": ABSENT}),
    ("documents as maps, in a ConfigMap", "{cloudconfig: {kind: ConfigMap, userdata: {a: 1}, networkdata: {links: []}, vendordata: x}}", [], {
        "ConfigMap/berth-vm.cloudconfig data": {"userdata": "#cloud-config\na: 1\n", "networkdata": "links: []\n", "vendordata": "x"},
        f"{POD} volumes cloudconfig configMap name": "berth-vm.cloudconfig", f"{VM} volumeMounts /vendordata readOnly": True}),
    ("documents of one's own", "{cloudconfig: {existing: {name: mine, keys: [networkdata]}}}", [], {
        "Secret/berth-vm.cloudconfig": ABSENT, f"{POD} volumes cloudconfig secret secretName": "mine",
        f"{VM} volumeMounts /networkdata subPath": "networkdata", f"{VM} volumeMounts /userdata": ABSENT}),
    ("further disks", "{vmconfig: {disks: {a: {size: 1Gi}, b: {size: 2Gi, mode: filesystem, class: fast, access_mode: ReadWriteOnce}, "
     "c: {existing: old}}}}", ["--kube-version", "1.33.0"], {
        "PersistentVolumeClaim/berth-vm.a spec": {"accessModes": ["ReadWriteOncePod"], "volumeMode": "Block",
                                                  "resources": {"requests": {"storage": "1Gi"}}},
        "PersistentVolumeClaim/berth-vm.b spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
                                                  "storageClassName": "fast", "resources": {"requests": {"storage": "2Gi"}}},
        "PersistentVolumeClaim/berth-vm.b metadata annotations": {"helm.sh/resource-policy": "keep"},
        "PersistentVolumeClaim/berth-vm.c": ABSENT, f"{POD} volumes disk-c persistentVolumeClaim claimName": "old",
        f"{VM} volumeDevices /dev/vm/disk-a name": "disk-a", f"{VM} volumeDevices /dev/vm/disk-c name": "disk-c",
        f"{VM} volumeMounts /volumes/b name": "disk-b"}),
    ("a Service", "{netconfig: {ports: {ssh: 22, dns: {port: 53, protocol: UDP, target: 5353, node_port: 30053}}, "
     "service: {enabled: true, type: NodePort, annotations: {a: b}}}}", [], {
        "Service/berth-vm-ports spec type": "NodePort", "Service/berth-vm-ports metadata annotations": {"a": "b"},
        "Service/berth-vm-ports spec ports dns": {"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP", "nodePort": 30053},
        "Service/berth-vm-ports spec ports ssh": {"name": "ssh", "port": 22, "targetPort": 22, "protocol": "TCP"},
        f"{VM} ports dns containerPort": 5353}),
    ("a network policy", "{netconfig: {ports: {ssh: 22, vnc: 5900}, network_policy: {enabled: true, "
     "from: [{ipBlock: {cidr: 10.0.0.0/8}}]}}}", [], {
        "NetworkPolicy/berth-vm spec policyTypes": ["Ingress"],
        "NetworkPolicy/berth-vm spec ingress 0": {"ports": [{"port": 22, "protocol": "TCP"}], "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
        "NetworkPolicy/berth-vm spec ingress 1": {"ports": [{"port": 5900, "protocol": "TCP"}], "from": [{"podSelector": {}}]}}),
    ("a network policy that lets nothing in or out", "{vnc: {enabled: false}, netconfig: {network_policy: {enabled: true, limit_egress: true}}}", [], {
        "NetworkPolicy/berth-vm spec ingress": [], "NetworkPolicy/berth-vm spec policyTypes": ["Ingress", "Egress"],
        "NetworkPolicy/berth-vm spec egress": [{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}]}),
    ("no eviction", "{disruption: {enabled: true}}", [], {
        "PodDisruptionBudget/berth-vm spec maxUnavailable": 0,
        "PodDisruptionBudget/berth-vm spec selector matchLabels berth.dev/vm": "vm"}),
    ("metrics", "{metrics: {enabled: true, interval_seconds: 15, labels: {release: prometheus}}}", [], {
        "ServiceMonitor/berth-vm spec endpoints 0 interval": "15s", "ServiceMonitor/berth-vm metadata labels release": "prometheus",
        "ServiceMonitor/berth-vm spec endpoints 0 basicAuth password": {"name": "berth-vm.vnc", "key": "password"}}),
    ("root, where /dev/kvm is root's", "{security: {run_as_user: 0, run_as_group: 0, supplemental_groups: [104]}}", [], {
        f"{POD} securityContext runAsNonRoot": False, f"{POD} securityContext runAsUser": 0,
        f"{POD} securityContext supplementalGroups": [104]}),
    ("sysctls", "{security: {sysctls: [{name: net.ipv6.conf.all.forwarding, value: '1'}]}}", [], {
        f"{POD} securityContext sysctls net.ipv6.conf.all.forwarding value": "1"}),
    ("the rest of a pod", "{vmconfig: {boot: uefi, cmdline: 'a b', stop_timeout: 600, log_format: json, log_level: debug}, pod: {"
     "annotations: {x: z}, labels: {team: t}, args: [--disk-queues=2], env: [{name: BERTH_DISK_ENGINE, value: sync}], "
     "nodeSelector: {disk: ssd}, tolerations: [{operator: Exists}], priorityClassName: high, runtimeClassName: rc, "
     "serviceAccountName: sa, volumes: [{name: ca, configMap: {name: ca}}], volumeMounts: [{name: ca, mountPath: /ca}], "
     "update: OnDelete, affinity: {nodeAffinity: {}}}}", [], {
        f"{SET} template metadata annotations x": "z", f"{SET} template metadata labels team": "t", f"{VM} args": ["--disk-queues=2"],
        f"{ENV} BERTH_DISK_ENGINE value": "sync", f"{POD} nodeSelector disk": "ssd", f"{POD} priorityClassName": "high",
        f"{POD} runtimeClassName": "rc", f"{POD} serviceAccountName": "sa", f"{VM} volumeMounts /ca name": "ca",
        f"{SET} updateStrategy type": "OnDelete", f"{POD} terminationGracePeriodSeconds": 615, f"{ENV} BOOT value": "uefi",
        f"{ENV} CMDLINE value": "a b", f"{ENV} BERTH_LOG_FORMAT value": "json"}),
    ("images and labels, as of old", "---\n{images: {vmrunner: 'example.com/berth@sha256:00', pull_policy: Always, pull_secrets: [s]}, "
     "labels: {node_selector_key: kvm, node_selector_value: 'yes'}}", [], {
        f"{VM} image": "example.com/berth@sha256:00", f"{VM} imagePullPolicy": "Always", f"{POD} imagePullSecrets": [{"name": "s"}],
        f"{POD} nodeSelector kvm": "yes", "DaemonSet/berth-device-plugin spec template spec containers device-plugin image":
        "example.com/berth@sha256:00"}),
    ("an image cache", "---\n{imagecache: {enabled: true, class: nfs}}", [], {
        "PersistentVolumeClaim/berth.images spec accessModes": ["ReadWriteMany"],
        "PersistentVolumeClaim/berth.images metadata annotations": {"helm.sh/resource-policy": "keep"},
        f"{POD} initContainers fetch command": ["berth", "image", "pull"], f"{POD} initContainers fetch env IMG_SOURCE value": URL,
        f"{POD} initContainers fetch env IMG_TARGET value": "disk.qcow2", f"{POD} initContainers fetch env IMG_DIR value": "/images",
        f"{POD} initContainers fetch securityContext capabilities": {"drop": ["ALL"]},
        f"{ENV} IMG_SOURCE value": "/images/disk.qcow2", f"{VM} volumeMounts images readOnly": True}),
    ("an image cache that exists", "---\n{imagecache: {enabled: true, existing: bases}}", [], {
        "PersistentVolumeClaim/berth.images": ABSENT, f"{POD} volumes images persistentVolumeClaim claimName": "bases"}),
    ("a device plugin of somebody's", "---\n{device_plugin: {enabled: false, resources: {kvm: x.org/kvm, tun: '', vhost_net: ''}}}", [], {
        "DaemonSet/berth-device-plugin": ABSENT, f"{VM} resources limits": {"memory": "1100Mi", "x.org/kvm": 1}}),
    ("the device plugin", "---\n{device_plugin: {slots: 7, resources: {vhost_net: ''}, nodeSelector: {kvm: 'yes'}}}", [], {
        "DaemonSet/berth-device-plugin spec template spec containers device-plugin args":
        ["--devices=/host/dev", "--slots=7", "--kvm=berth.dev/kvm", "--tun=berth.dev/tun"],
        "DaemonSet/berth-device-plugin spec template spec nodeSelector kvm": "yes"}),
    ("what holds for all VMs, and what one says otherwise", "---\n{vmdefaults: {enabled: true, vmconfig: {cpu: {vcpu: 2, ram_mb: 512}}, "
     "netconfig: {dhcp: false, ports: {ssh: 22}}, pod: {nodeSelector: {a: b}, args: [--x]}}, vmlist: {vm: {vmconfig: {cpu: {vcpu: 3}}, "
     "netconfig: {dhcp: true, ports: {http: 80}}, pod: {nodeSelector: {c: d}, args: []}}}}", [], {
        f"{ENV} IMG_VCPU value": "3", f"{ENV} IMG_RAM_MB value": "512", f"{ENV} NO_DHCP": ABSENT, f"{VM} ports ssh containerPort": 22,
        f"{VM} ports http containerPort": 80, f"{POD} nodeSelector a": "b", f"{POD} nodeSelector c": "d", f"{VM} args": ABSENT}),
    ("switched off by false", "---\n{vmdefaults: {vnc: {enabled: true}}, vmlist: {vm: {vnc: {enabled: false}}}}", [], {
        f"{ENV} NO_VNC value": "1"}),
    ("a VM that is switched off is not looked at", "---\n{vmlist: {off: {enabled: false, extra: thang, vmconfig: wrong}}}", [], {
        "StatefulSet/berth-off": ABSENT, "PersistentVolumeClaim/berth-off": ABSENT, f"{SET} replicas": 1}),
    ("what is left blank is as if it were not there", "---\n{vmlist: {none: null, vm: {vmconfig: {rootfs: {pvc_class: null, localtarget: null}}, "
     "netconfig: {ports: null, readinessTcpProbe: null}, cloudconfig: null}}}", [], {
        "StatefulSet/berth-none": ABSENT, f"{ENV} IMG_TARGET": ABSENT, f"{VM} readinessProbe httpGet path": "/readyz",
        "PersistentVolumeClaim/berth-vm spec storageClassName": ABSENT}),
    ("no VMs, as --set says it", "", ["--set", "vmlist={}"], {
        "StatefulSet/berth-vm": ABSENT, "PersistentVolumeClaim/berth-vm": ABSENT, "Pod/berth-test": ABSENT,
        "DaemonSet/berth-device-plugin kind": "DaemonSet"}),
    ("no VMs, as JSON says it", "", ["--set-json", "vmlist=[]"], {"StatefulSet/berth-vm": ABSENT}),
]


def values_of(text):
    """The values of a row, laid over the least that a VM must have."""
    least = {"vmlist": {"vm": {"enabled": True, "vmconfig": {"rootfs": {"sourceurl": URL}}}}}
    given = yaml.safe_load(text.removeprefix("---\n")) or {}
    return overlay(least, given if text.startswith("---\n") else {"vmlist": {"vm": given}})


def overlay(under, over):
    under = copy.deepcopy(under)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(under.get(key), dict)
        under[key] = overlay(under[key], value) if nested else value
    return under


def row(name, text, flags, wanted):
    def check():
        objects = render(values_of(text), flags)
        found = {path: at(objects, path) for path in wanted}
        assert found == wanted, {path: (found[path], "instead of", wanted[path]) for path in wanted if found[path] != wanted[path]}
        complaints = judges.consistent(objects) + judges.against_schemas(objects)
        assert not complaints, complaints
        pod = judges.not_restricted(objects).get("StatefulSet/berth-vm", [])
        allowed = {"capability NET_ADMIN"}
        if name.startswith("root"):
            allowed |= {"runAsNonRoot", "runAsUser 0"}
        if name == "sysctls":
            allowed |= {"sysctl net.ipv6.conf.all.forwarding"}
        assert set(pod) <= allowed, pod
        if "mode: none" in text:
            assert pod == []
        for helm in HELMS[1:]:
            others = render(values_of(text), flags, helm)
            for passwords in (objects, others):
                if "password:" not in text:
                    passwords.pop("Secret/berth-vm.vnc", None)
            assert others == objects, helm

    check.__name__ = name
    return check


CHECKS = [row(*one) for one in TABLE]


def check_rows_are_many():
    assert len(TABLE) >= 30
    assert len({name for name, *_ in TABLE}) == len(TABLE)
