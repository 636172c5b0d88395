"""Writes chart/README.md from values.schema.json and values.yaml: `tests/chart/run --readme`."""

import json
import pathlib
import sys

import yaml

CHART = pathlib.Path(__file__).resolve().parents[2] / "chart"
HEAD = """# The chart

Virtual machines as pods, one each. [docs/helm.md](../docs/helm.md) says how to begin, what an upgrade
restarts, and how VMs and their claims are removed; [examples/](examples) are values to start from.

    helm install berth chart --values chart/examples/cirros.yaml

This page is made from `values.schema.json` and `values.yaml` (`tests/chart/run --readme`).
"""
VM_HEAD = """
## A VM

`vmlist.NAME.KEY` for one VM, `vmdefaults.KEY` for all that do not say otherwise. Maps are joined, anything
else is replaced.
"""


def resolve(whole, node):
    if "$ref" in node:
        return whole["definitions"][node["$ref"].rsplit("/", 1)[1]]
    return node


def kind(node):
    if "enum" in node:
        return ", ".join(f"`{one}`" if one else "empty" for one in node["enum"] if one is not None)
    types = node["type"] if isinstance(node["type"], list) else [node["type"]]
    types = [one for one in types if one != "null"]
    text = " or ".join({"object": "map", "array": "list", "boolean": "true, false"}.get(one, one) for one in types)
    if "integer" in types and "minimum" in node:
        text = text.replace("integer", f"{node['minimum']} to {node['maximum']}")
    return text


def rows(whole, node, defaults, path):
    """Table rows of what is below `node`."""
    for key, below in resolve(whole, node).get("properties", {}).items():
        below = resolve(whole, below)
        place = f"{path}.{key}" if path else key
        if below is whole["definitions"]["vm"] or place == "global":
            continue
        value = defaults.get(key, "") if isinstance(defaults, dict) else ""
        if below.get("properties") and "integer" not in below["type"]:
            yield from rows(whole, below, value, place)
            continue
        shown = "" if value in ("", {}, []) else f"`{json.dumps(value)}`"
        yield f"| `{place}` | {cell(kind(below))} | {shown} | {cell(below['description'])} |"


def cell(text):
    return text.replace("|", "\\|")


def table(lines, first="default"):
    return "\n".join([f"| key | value | {first} | |", "|---|---|---|---|", *lines, ""])


def text():
    whole = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    vm, disk, port = (whole["definitions"][name] for name in ("vm", "disk", "port"))
    parts = [
        HEAD,
        "\n## The whole\n\n" + table(rows(whole, whole, defaults, "")),
        VM_HEAD + "\n" + table(rows(whole, vm, defaults["vmdefaults"], "")),
        "\n## A further disk: `vmconfig.disks.NAME`\n\n" + table(rows(whole, disk, {}, "")),
        "\n## A port: `netconfig.ports.NAME`\n\nA number, or a map.\n\n" + table(rows(whole, port, {}, "")),
    ]
    return "".join(parts)


if __name__ == "__main__":
    (CHART / "README.md").write_text(text())
    sys.exit(0)
