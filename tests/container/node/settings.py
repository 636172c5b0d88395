"""What Helm's --set changes, by VM.

Helm makes a VM of any name that it is given, disabled, and says nothing: a mistake in the name would
change nothing.
"""

import re

# An assignment begins the text, or follows a comma that has no backslash; its key ends at the next dot.
VM = re.compile(r"(?:^|(?<!\\),)vmlist\.([^.=,\[]+)")


class NoSuchVm(Exception):
    """A setting is for a VM that is not run."""


def check_vms(settings, vms):
    """Each setting for a VM has to be for one of `vms`, else NoSuchVm says which there are."""
    for text in settings:
        # A list's elements are between braces, and no assignments.
        for name in VM.findall(re.sub(r"=\{[^}]*\}", "=", text)):
            if name not in vms:
                raise NoSuchVm(f"--set {text}: there is no VM {name}; there {'is' if len(vms) == 1 else 'are'} {', '.join(vms)}")
