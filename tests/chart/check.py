"""Runs every check of the chart, or those whose name contains the argument."""

import importlib
import sys
import traceback

MODULES = ["examples", "values", "refusals", "upgrades", "cluster", "test_pod", "documents"]


def checks():
    for module in map(importlib.import_module, MODULES):
        own = [value for name, value in vars(module).items() if name.startswith("check_")]
        for check in own + getattr(module, "CHECKS", []):
            yield f"{module.__name__}: {check.__name__.removeprefix('check_').replace('_', ' ')}", check


def main(wanted=""):
    passed, failed = 0, []
    for name, check in checks():
        if wanted not in name:
            continue
        try:
            check()
        except Exception:  # a check that breaks has failed, and the others go on
            traceback.print_exc()
            failed.append(name)
            print(f"FAILED {name}", flush=True)
        else:
            passed += 1
            print(f"ok {name}", flush=True)
    print("".join(f"    {name}\n" for name in failed), end="")
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
