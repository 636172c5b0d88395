"""What of the node needs neither root nor KVM.

    python3 -m unittest discover -s tests/container/node
"""

import pathlib
import tempfile
import unittest

import bundle
import names
import probes
import settings
import volumes
from fields import Fields, Unsupported
from resources import Resources, oom_score_adj, quantity


class Strictness(unittest.TestCase):
    def test_a_field_that_is_not_understood_is_named(self):
        with self.assertRaisesRegex(Unsupported, "pod x has fields that are not understood: hostPID: True"):
            with Fields({"name": "x", "hostPID": True}, "pod x") as fields:
                fields.take("name", str)

    def test_one_below_is_named_with_its_place(self):
        fields = Fields({"containers": [{"name": "vm", "tty": True}]}, "pod x")
        with self.assertRaisesRegex(Unsupported, r"pod x\.containers\[vm\].*tty"):
            for container in fields.each("containers"):
                with container:
                    container.take("name", str)

    def test_types_and_values_are_looked_at(self):
        for values in ({}, {"n": "1"}, {"n": True}):
            with self.assertRaises(Unsupported):
                Fields(values, "it").take("n", int)
        with self.assertRaisesRegex(Unsupported, "privileged is True"):
            Fields({"privileged": True}, "it").expect("privileged", False)

    def test_an_error_inside_is_not_hidden_by_what_is_left(self):
        with self.assertRaises(KeyError), Fields({"left": 1}, "it"):
            raise KeyError("another")

    def test_probes_of_other_kinds(self):
        with self.assertRaisesRegex(Unsupported, "grpc"):
            probes.read("liveness", {"grpc": {"port": 1}}, "10.0.0.1", None)


class Settings(unittest.TestCase):
    def test_those_for_vms_that_there_are(self):
        settings.check_vms(["vmlist.web.vmconfig.cpu.vcpu=2", "device_plugin.slots=3,vmlist.db.enabled=true",
                            "vmdefaults.x=1", "vmlist.web.x={a,vmlist.c.d}", r"vmlist.web.x=a\,vmlist.c.d"], ["web", "db"])

    def test_one_for_another_names_those_that_there_are(self):
        for text in ("vmlist.wbe.vmconfig.cpu.vcpu=2", "a=b,vmlist.wbe.enabled=true", "vmlist.wbe=null", "vmlist.web.x={a},vmlist.wbe.x=1"):
            with self.assertRaisesRegex(settings.NoSuchVm, "no VM wbe; there is web$"):
                settings.check_vms([text], ["web"])
        with self.assertRaisesRegex(settings.NoSuchVm, "there are web, db"):
            settings.check_vms(["device_plugin.slots=3", "vmlist.wbe.x=1"], ["web", "db"])


class Amounts(unittest.TestCase):
    def test_quantities(self):
        for text, value in [("326Mi", 326 << 20), ("100m", 0.1), ("2", 2), ("1G", 10**9), ("1.5Gi", 3 << 29), (7, 7)]:
            self.assertAlmostEqual(float(quantity(text)), value, msg=text)
        for text in ("", "Mi", "1Q", "1e3x"):
            with self.assertRaises(Unsupported, msg=text):
                quantity(text)

    def test_a_container(self):
        given = {"requests": {"cpu": "100m", "memory": "326Mi"}, "limits": {"memory": "326Mi", "berth.dev/kvm": 1}}
        resources = Resources.of(Fields(given, "resources"))
        self.assertEqual(resources.devices, {"berth.dev/kvm": 1})
        limits = resources.cgroup()
        # None of any size that there is.
        self.assertTrue(all(one["limit"] == 0 for one in limits.pop("hugepageLimits")))
        self.assertEqual(limits, {"cpu": {"shares": 102}, "memory": {"limit": 326 << 20, "swap": 326 << 20}})
        # Burstable: the CPU has no limit.
        self.assertTrue(3 <= oom_score_adj([resources])[0] <= 999)

    def test_huge_pages_are_limited_to_what_is_requested(self):
        both = {"memory": "92Mi", "hugepages-2Mi": "256Mi"}
        resources = Resources.of(Fields({"requests": both, "limits": both}, "resources"))
        self.assertEqual((resources.huge_pages, resources.devices), ({"2Mi": 256 << 20}, {}))
        self.assertEqual(set(resources.requests) | set(resources.limits), {"memory"})
        odd, unknown = {"hugepages-2Mi": "255Mi"}, {"hugepages-4Mi": "256Mi"}
        for requests, limits in [(both, {}), (both, both | {"hugepages-2Mi": "128Mi"}), (odd, odd), (unknown, unknown)]:
            with self.assertRaisesRegex(Unsupported, "hugepages-"):
                Resources.of(Fields({"requests": requests, "limits": limits}, "resources"))

    def test_half_a_device_is_refused(self):
        for limit in ("500m", "1.5"):
            with self.assertRaises(Unsupported):
                Resources.of(Fields({"limits": {"berth.dev/kvm": limit}}, "resources"))

    def test_whole_processors_are_guaranteed(self):
        limits = {"cpu": "5", "memory": "1Gi"}
        resources = Resources.of(Fields({"limits": limits}, "resources"))
        self.assertEqual(oom_score_adj([resources]), [-997])
        self.assertEqual(resources.cgroup()["cpu"], {"shares": 5120, "quota": 500_000, "period": 100_000})


class Texts(unittest.TestCase):
    def test_variables_in_commands(self):
        known = {"A": "1"}
        for text, expected in [("$(A)", "1"), ("$$(A)", "$(A)"), ("x$(B)$A", "x$(B)$A"), ("$(A)$(A)", "11")]:
            self.assertEqual(bundle.expand(text, known), expected)

    def test_a_secret_changes_under_its_links(self):
        with tempfile.TemporaryDirectory() as name:
            place = pathlib.Path(name)
            volumes.write_keys(place, {"password": b"old"}, None)
            volumes.write_keys(place, {"password": b"new"}, None)
            self.assertEqual((place / "password").read_bytes(), b"new")
            self.assertEqual((place / "password").readlink(), pathlib.Path("..data/password"))
            self.assertEqual(len(list(place.iterdir())), 3, "the link, ..data, and one directory")

    def test_claims(self):
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}}
        thing = {"kind": "PersistentVolumeClaim", "metadata": {"name": "vm.data"}, "spec": spec}
        self.assertEqual(volumes.claimed(thing), (False, 64 << 20))
        self.assertEqual(volumes.claimed(thing | {"spec": spec | {"volumeMode": "Block"}}), (True, 64 << 20))
        with self.assertRaisesRegex(Unsupported, "volumeMode"):
            volumes.claimed(thing | {"spec": spec | {"volumeMode": "Tape"}})

    def test_a_directory_is_no_device(self):
        with tempfile.TemporaryDirectory() as name:
            place = pathlib.Path(name)
            wanted = Fields({"volumes": [{"name": "tmp", "emptyDir": {}}]}, "pod").each("volumes")
            made = volumes.Volumes(wanted, None, place, place, None)
            self.assertTrue(made.path("tmp", None, "it").is_dir())
            for volume in ("tmp", "other"):
                with self.assertRaisesRegex(Unsupported, f"no volume {volume} that is a block device"):
                    made.device(volume, "it")

    def test_names_of_services(self):
        service = {"kind": "Service", "metadata": {"name": "vm", "namespace": "vms"},
                   "spec": {"clusterIP": "None", "selector": {"a": "1"}}}
        pods = [("vms", {"a": "1", "b": "2"}, "10.0.0.1"), ("vms", {"b": "2"}, "10.0.0.2"), ("other", {"a": "1"}, "10.0.0.3")]
        look_up = names.addresses_of([service], pods)
        self.assertEqual(look_up("vm.vms.svc.cluster.local"), ["10.0.0.1"])
        self.assertIsNone(look_up("vm.svc.cluster.local"))

    def test_a_message_of_dns(self):
        asked = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x01a\x01b\0\0\x01\0\x01"
        self.assertEqual(names.question(asked), ("a.b", 1, 21))
        found = names.answer(asked, {"a.b": ["1.2.3.4"]}.get)
        self.assertEqual(found[2:4] + found[-4:], b"\x85\x80\x01\x02\x03\x04")
        unknown = names.answer(asked, {}.get)
        self.assertEqual((unknown[3] & 15, unknown[12:]), (3, asked[12:]))


if __name__ == "__main__":
    unittest.main()
