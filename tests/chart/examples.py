"""Every example in chart/examples: accepted by Helm's linter, valid, consistent, restricted."""

import judges
from helm import CHART, HELMS, KUBERNETES, render, run

FILES = sorted((CHART / "examples").glob("*.yaml"))


def check_lint():
    assert len(FILES) >= 5, FILES
    for helm in HELMS:
        said = run(helm, "lint", "--strict", *KUBERNETES, CHART)
        assert "0 chart(s) failed" in said, said
        for file in FILES:
            said = run(helm, "lint", "--strict", *KUBERNETES, CHART, "--values", file)
            assert "0 chart(s) failed" in said, said


def check_schemas():
    for file in FILES:
        complaints = judges.against_schemas(render(file))
        assert not complaints, (file.name, complaints)


def check_both_helms_render_the_same():
    for file in FILES:
        rendered = [render(file, helm=helm) for helm in HELMS]
        for objects in rendered:
            for key in [key for key in objects if key.endswith(".vnc")]:
                assert len(objects.pop(key)["data"]["password"]) == 12, "8 random characters, in base64"
        assert all(objects == rendered[0] for objects in rendered), file.name


def check_consistency():
    for file in FILES:
        objects = render(file)
        assert not judges.consistent(objects), (file.name, judges.consistent(objects))


def check_pod_security():
    for file in FILES:
        for key, found in judges.not_restricted(render(file)).items():
            if key == "DaemonSet/berth-device-plugin":
                # The kubelet's directory is root's, and only a host path leads there.
                assert found == ["runAsNonRoot", "runAsUser 0", "volume hostPath"], found
            else:
                assert found in ([], ["capability NET_ADMIN"]), (file.name, key, found)
