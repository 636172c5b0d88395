"""chart/README.md is what the schema and the values say; every value is commented and described."""

import json

import yaml

import readme
from helm import CHART


def schema():
    return json.loads((CHART / "values.schema.json").read_text())


def nodes(node, path):
    """Every node of a schema that describes a value, as (path, node)."""
    yield path, node
    for key, below in node.get("properties", {}).items():
        yield from nodes(below, f"{path}.{key}")
    extra = node.get("additionalProperties")
    if isinstance(extra, dict):
        yield from nodes(extra, f"{path}.*")


def check_readme_is_generated():
    text = (CHART / "README.md").read_text()
    assert text == readme.text(), "chart/README.md is old: write it anew with tests/chart/run --readme"


def check_everything_is_described_and_closed():
    whole = schema()
    roots = [("", whole), *whole["definitions"].items()]
    for name, root in roots:
        for path, node in nodes(root, name):
            if path.endswith(".*") or "$ref" in node:
                continue
            assert node.get("description", "").endswith("."), f"{path} has no description, or no sentence"
            if "properties" in node:
                assert node.get("additionalProperties") is False, f"{path} takes unknown keys"


def check_every_value_has_a_place_in_the_schema_and_a_comment():
    lines = (CHART / "values.yaml").read_text().splitlines()
    defaults = yaml.safe_load("\n".join(lines))
    whole = schema()

    def compare(values, node, path):
        node = readme.resolve(whole, node)
        known = {key for key in node.get("properties", {}) if key != "global"}
        assert set(values) == known, f"{path}: only in values.yaml or only in the schema: {set(values) ^ known}"
        for key, value in values.items():
            if isinstance(value, dict) and readme.resolve(whole, node["properties"][key]).get("properties"):
                compare(value, node["properties"][key], f"{path}.{key}")

    compare(defaults, whole, "values")
    for number, line in enumerate(lines):
        leaf = line.strip() and not line.strip().startswith(("#", "-")) and not line.endswith(":")
        assert not leaf or lines[number - 1].strip().startswith("#"), f"values.yaml:{number + 1} has no comment: {line}"


def check_versions_are_one():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    cargo = (CHART.parent / "Cargo.toml").read_text()
    assert f'version = "{chart["appVersion"]}"' in cargo, "appVersion is not the version in Cargo.toml"
