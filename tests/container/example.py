"""An example of the chart as objects, with the two things that an example cannot know: where the image
is, and who may log in.

    example.py EXAMPLE VM URL KEY [HELM'S FLAG]...

VM may be empty where the example has but one; the others are switched off. HELMS in the environment names the program. Writes a list of objects, as JSON.
"""

import json
import pathlib
import re
import sys

import yaml

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "chart"), str(HERE / "node")]
import helm  # pylint: disable=wrong-import-position
import settings as vm_settings  # pylint: disable=wrong-import-position

PLACEHOLDER = re.compile(r"ssh-ed25519 PUT-YOUR-PUBLIC-KEY-HERE [^\s\"]*")


def fill_in(settings, url, key):
    """In the settings of a VM, or in what VMs share: the URL, where one is, and the key."""
    rootfs = settings.get("vmconfig", {}).get("rootfs", {})
    if "sourceurl" in rootfs:
        rootfs["sourceurl"] = url
        rootfs.pop("sha256", None)
    config = settings.get("cloudconfig", {})
    if "userdata" not in config:
        return
    text = yaml.safe_dump(config["userdata"]) if isinstance(config["userdata"], dict) else config["userdata"]
    if PLACEHOLDER.search(text):
        text = PLACEHOLDER.sub(key, text)
    else:
        text += f"ssh_authorized_keys:\n  - {key}\n"
    config["userdata"] = yaml.safe_load(text) if isinstance(config["userdata"], dict) else text


def main(example, vm, url, key, *flags):
    values = yaml.safe_load((helm.CHART / "examples" / f"{example}.yaml").read_text())
    vms = values["vmlist"]
    if not vm and len(vms) > 1 or vm and vm not in vms:
        sys.exit(f"the example {example} has the VMs {', '.join(vms)}: name one of them with --vm")
    try:
        # Of several VMs the others are switched off, and their settings change nothing either.
        vm_settings.check_vms([text for flag, text in zip(flags[::2], flags[1::2]) if flag == "--set"], [vm] if vm else list(vms))
    except vm_settings.NoSuchVm as error:
        sys.exit(f"the example {example}: {error}")
    for name, settings in vms.items():
        settings["enabled"] = name == (vm or name)
    for settings in [values.get("vmdefaults", {}), *vms.values()]:
        fill_in(settings, url, key)
    try:
        objects = helm.render(values, flags)
    except helm.Refused as refused:
        sys.exit(f"Helm does not render the example {example}: {refused}")
    json.dump(list(objects.values()), sys.stdout, indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
