"""Renders the chart with real Helms, and finds things in what comes out.

HELMS in the environment names the programs, separated by colons; the first does what one is enough
for. No cluster is asked, so what the chart looks up is not there, unless flags lead to one.
"""

import os
import pathlib
import re
import subprocess
import tempfile

import yaml

CLONE = pathlib.Path(__file__).resolve().parents[2]
CHART = CLONE / "chart"
HELMS = os.environ["HELMS"].split(":")
ABSENT = "(absent)"
# Without a cluster Helm assumes one, and Helms built in different ways assume different ones.
KUBERNETES = ["--kube-version", "1.32.0"]


class Refused(Exception):
    """Helm ended with an error; the text is what it said."""


def run(helm, *arguments):
    done = subprocess.run([helm, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def render(values=None, flags=(), helm=HELMS[0], release="berth"):
    """The objects that come of `values` (a dictionary, or a file), as {"Kind/name": object}."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({} if isinstance(values, pathlib.Path) else values or {}, file)
        file.flush()
        path = values if isinstance(values, pathlib.Path) else file.name
        text = run(helm, "template", release, CHART, "--namespace", "vms", "--values", path, *KUBERNETES, *flags)
    objects = {}
    for thing in yaml.load_all(text, Loader=yaml.CSafeLoader):
        if thing is None:
            continue
        key = f"{thing['kind']}/{thing['metadata']['name']}"
        assert key not in objects, f"{key} is rendered twice"
        objects[key] = thing
    return objects


def at(objects, path):
    """What is at `path`: Kind/name, then keys after spaces. Of a list of maps a key chooses the one
    with that name, device path, mount path or type; a number, one by its place."""
    start, *keys = path.split(" ")
    found = objects.get(start, ABSENT)
    for key in keys:
        if isinstance(found, list):
            if re.fullmatch(r"\d+", key):
                found = found[int(key)] if int(key) < len(found) else ABSENT
                continue
            names = ("name", "devicePath", "mountPath")
            found = next((one for one in found if key in [one.get(name) for name in names]), ABSENT)
        elif isinstance(found, dict):
            found = found.get(key, ABSENT)
        else:
            return ABSENT
    return found


def pods(objects):
    """Every pod, or template of one, as (key, metadata, spec)."""
    for key, thing in objects.items():
        if thing["kind"] == "Pod":
            yield key, thing["metadata"], thing["spec"]
        elif thing["kind"] in ("StatefulSet", "DaemonSet"):
            yield key, thing["spec"]["template"]["metadata"], thing["spec"]["template"]["spec"]
