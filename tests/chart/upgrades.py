"""What an upgrade changes: a StatefulSet's pod is replaced when its template changes, and only then."""

from helm import at, render
from values import overlay, values_of

LEAST = values_of("{note: before, cloudconfig: {userdata: before}, vnc: {password: x}}")


def before_and_after(change, start=LEAST, flags=()):
    after = values_of(change)
    return render(start), render(overlay(start, after), flags)


def template(objects):
    return at(objects, "StatefulSet/berth-vm spec template")


def changed(change, start=LEAST):
    """Which objects `change` changes."""
    before, after = before_and_after(change, start)
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def restarts(change, start=LEAST):
    before, after = before_and_after(change, start)
    assert before != after, "nothing changed at all"
    return template(before) != template(after)


def check_a_note_restarts_nothing():
    assert changed("{note: after}") == {"StatefulSet/berth-vm"}
    assert not restarts("{note: after}")


def check_user_data_restarts_nothing():
    assert changed("{cloudconfig: {userdata: after}}") == {"Secret/berth-vm.cloudconfig"}


def check_user_data_restarts_where_asked_to():
    start = overlay(LEAST, values_of("{cloudconfig: {restart_on_change: true}}"))
    assert restarts("{cloudconfig: {userdata: after}}", start)
    assert not restarts("{note: after}", start)


def check_ram_and_image_restart():
    for change in ("{vmconfig: {cpu: {ram_mb: 2048}}}", "{vmconfig: {cpu: {vcpu: 2}}}", "---\n{images: {vmrunner: 'other:1'}}"):
        assert restarts(change), change
        assert "PersistentVolumeClaim/berth-vm" not in changed(change), change


def check_a_password_restarts_nothing():
    # The server reads the file again at each connection.
    assert changed("{vnc: {password: other}}") == {"Secret/berth-vm.vnc"}


def check_services_and_policies_restart_nothing():
    start = overlay(LEAST, values_of("{netconfig: {ports: {ssh: 22}}}"))
    for change in ("{netconfig: {service: {enabled: true}}}", "{netconfig: {network_policy: {enabled: true}}}",
                   "{disruption: {enabled: true}}", "{metrics: {enabled: true}}"):
        assert not restarts(change, start), change


def check_another_vm_restarts_nothing():
    change = "---\n{vmlist: {other: {enabled: true, vmconfig: {rootfs: {sourceurl: /x}}}}}"
    assert not restarts(change)
    assert "PersistentVolumeClaim/berth-other" in changed(change)


def check_a_bigger_claim_is_the_same_claim():
    assert changed("{vmconfig: {rootfs: {pvc_size: 20Gi}}}") == {"PersistentVolumeClaim/berth-vm"}


def check_claims_stay_when_vms_go():
    """Helm deletes what is no longer rendered, but not what says keep; and the same name finds it again."""
    start = values_of("{vmconfig: {disks: {data: {size: 1Gi}}}}")
    before = render(start)
    after = render(start, ["--set", "vmlist={}"])
    gone = [before[key] for key in before.keys() - after.keys()]
    claims = [thing for thing in gone if thing["kind"] == "PersistentVolumeClaim"]
    assert {claim["metadata"]["name"] for claim in claims} == {"berth-vm", "berth-vm.data"}
    assert all(claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for claim in claims)
    assert any(thing["kind"] == "StatefulSet" for thing in gone)


def check_what_cannot_be_changed_does_not_change():
    """A StatefulSet's selector, service and pod management, and a claim's class and mode, are for good."""
    before, after = before_and_after("---\n{images: {vmrunner: 'b:2'}, vmlist: {vm: {vmconfig: {cpu: {ram_mb: 9}}}}}".replace("9", "99"))
    for field in ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates", "replicas"):
        path = f"StatefulSet/berth-vm spec {field}"
        assert at(before, path) == at(after, path), field


def check_the_cluster_s_version_restarts_nothing():
    old, new = render(LEAST, ["--kube-version", "1.28.0"]), render(LEAST, ["--kube-version", "1.35.0"])
    assert template(old) == template(new)


def check_pods_do_not_name_the_chart_s_version():
    labels = template(render(LEAST))["metadata"]["labels"]
    assert labels == {"app.kubernetes.io/name": "berth", "app.kubernetes.io/instance": "berth", "berth.dev/vm": "vm"}
