//! The sentence for every mistake.

use super::super::*;
use super::Place;
use crate::args::Settings;
use crate::host::MemoryLimit;

#[test]
fn every_mistake_is_one_sentence() {
    let place = Place::new(false);
    place.write("i");
    let image = "@base.qcow2";
    for (args, sentence) in [
        (&[][..], "no image to boot; name a qcow2 or raw image: berth run IMAGE"),
        (
            &["@none.img"],
            "IMAGE: `@none.img` cannot be opened: No such file or directory (os error 2); name a qcow2 or raw image that this user can read",
        ),
        (
            &["@"],
            "IMAGE: `@` cannot be opened: it is a directory; name a qcow2 or raw image that this user can read",
        ),
        (
            &["ftp://example.org/a.qcow2"],
            "IMAGE: `ftp://example.org/a.qcow2` is no http or https URL; write http:// or https://, a host and a path",
        ),
        (
            &["https://example.org/"],
            "IMAGE: `https://example.org/` does not end in a name for the base; give one with --image-name",
        ),
        (
            &["https://example.org/a", "--image-name", "pet.id"],
            "--image-name: `pet.id` cannot name a base: it would be taken for a file that belongs to another; give a name like debian-12.qcow2",
        ),
        (
            &["https://example.org/box.qcow2"],
            "IMAGE: `box.qcow2` would be both the base and the machine's own disk; give the base another --image-name, or the machine another --name",
        ),
        (
            &[image, "--image-sha256", "https://example.org/SHA256SUMS"],
            "--image-sha256: `https://example.org/SHA256SUMS` is a list of checksums, for images that are fetched, and this one is local; give the digest itself",
        ),
        (
            &["http://h/a", "--image-timeout", "0"],
            "--image-timeout: `0` is no time to wait for a server; give between 1s and 1h",
        ),
        (
            &[image, "--cpus", "0"],
            "--cpus: `0` is not a whole number from 1 to 64; write a number from 1 to 64",
        ),
        (
            &[image, "--cpus", "65"],
            "--cpus: `65` is not a whole number from 1 to 64; write a number from 1 to 64",
        ),
        (
            &[image, "--memory", "2X"],
            "--memory: `2X` has an unknown unit; write MiB as a plain number, or a unit such as 512M or 2G",
        ),
        (
            &[image, "--memory", "16"],
            "--memory: `16` is too little for a machine; give at least 32M",
        ),
        (
            &[image, "--memory", "1025"],
            "--memory: `1025` is not a multiple of 2 MiB; give 1 GiB, for example",
        ),
        (
            &[image, "--memory", "9G"],
            "--memory: `9G` is 9216 MiB, more than the 8192 MiB this host has; give less",
        ),
        (
            &[image, "--disk-size", "10"],
            "--disk-size: `10` has no unit; write a whole number with a unit, such as 10G",
        ),
        (
            &[image, "--disk-size", "0G"],
            "--disk-size: `0G` is no size for a disk; give between 1M and 1024T",
        ),
        (
            &[image, "--image-format", "vmdk"],
            "--image-format: `vmdk` is not an image format Berth knows; write qcow2 or raw",
        ),
        (
            &[image, "--image-sha256", "abc"],
            "--image-sha256: `abc` is not a digest; write sha256: and 64 hexadecimal digits, or sha512: and 128",
        ),
        (
            &[image, "--name", "a/b"],
            "--name: `a/b` cannot name a machine and its files; use up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends",
        ),
        (
            &[image, "--boot", "uefi"],
            "--boot: `uefi` is a way to boot that is not built yet; write auto or direct, which boot the image's own kernel without firmware",
        ),
        (
            &[image, "--net", "wifi"],
            "--net: `wifi` is not a network; write pod, direct, nat, none, or tap:NAME for a tap device that exists",
        ),
        (
            &[image, "--net", "none", "--mac", "52:54:00:00:00:01"],
            "--mac: `52:54:00:00:00:01` has no interface to apply to, since the network is none; add another --net, or take it away",
        ),
        (
            &[image, "--net", "direct", "--mac", "52:54:00:00:00:01"],
            "--mac: `52:54:00:00:00:01` cannot be, since with --net direct the guest has the pod's hardware address; take it away, or give --net pod",
        ),
        (
            &[image, "--net", "pod", "--publish", "2222:22"],
            "--publish: `2222:22` means something to --net nat only; add --net nat, or take it away",
        ),
        (
            &[image, "--vm-ip", "10.0.0.5"],
            "--vm-ip: `10.0.0.5` does not fit: VM_IP 10.0.0.5 and VM_GW 192.168.254.1 are not the two of a /30; give both, the two middle addresses of four, such as 192.168.254.2 and 192.168.254.1",
        ),
        (
            &[image, "--net", "none", "--vhost", "on"],
            "--vhost: `on` has no interface to apply to, since the network is none; add another --net, or take it away",
        ),
        (
            &[image, "--net", "tap:a", "--vhost", "yes"],
            "--vhost: `yes` is not known here; write auto, on or off",
        ),
        (
            &[image, "--net", "tap:a", "--mtu", "67"],
            "--mtu: `67` is not a whole number from 68 to 65535; write a number from 68 to 65535",
        ),
        (
            &[image, "--initrd", "@i"],
            "--initrd @i has no kernel to go with; give --kernel too, or neither",
        ),
        (
            &[image, "--kernel", "@no"],
            "--kernel: cannot read @no: No such file or directory (os error 2); name a file that this user can read",
        ),
        (
            &[image, "--userdata", "@"],
            "--userdata: cannot read @: it is a directory; name a file that this user can read",
        ),
        (
            &[image, "--stop-timeout", "soon"],
            "--stop-timeout: `soon` is not a whole number with an optional unit; write seconds as a plain number, or a unit such as 90s or 2m",
        ),
        (
            &[image, "--stop-timeout", "48h"],
            "--stop-timeout: `48h` is more than a day; give at most 24h",
        ),
        (
            &[image, "--console", "tty"],
            "--console: `tty` is not known here; write auto, stdio or none",
        ),
        (
            &[image, "--disk", "@none"],
            "--disk: `@none` cannot be opened: No such file or directory (os error 2); name a disk image that this user can read and write, or add ,ro",
        ),
        (
            &[image, "--disk", "/a,rw"],
            "--disk: `/a,rw` has the unknown option `rw`; the options are format=raw|qcow2, ro, serial=S, queues=N, engine=E, iops=N and bps=SIZE",
        ),
        (
            &[image, "--image-name", "a/b"],
            "--image-name: `a/b` is not a file name; write the name alone, without a directory",
        ),
    ] {
        assert_eq!(place.mistake(args), sentence, "{args:?}");
    }
}

#[test]
fn limits_and_missing_facts() {
    let mut place = Place::new(false);
    place.host.memory = Some(MemoryLimit { bytes: 512 << 20, by_cgroup: true });
    assert_eq!(
        place.mistake(&["@base.qcow2"]),
        "--memory (default): `1024` is 1024 MiB, more than the 512 MiB this cgroup may use; give \
         less, or raise the pod's memory limit"
    );
    place.host.memory = None;
    place.host.hostname = Some("not a name".into());
    assert_eq!(
        place.mistake(&["@base.qcow2"]),
        "the host's name `not a name` cannot name the machine; give one with --name"
    );
    place.host.data_dir = None;
    assert_eq!(
        place.mistake(&["@base.qcow2", "--name", "a"]),
        "there is no HOME to keep the machine's disk under; give --image-dir"
    );
    let many: Vec<String> = vec![format!("--disk={}", place.path("base.qcow2")); 20];
    let mut args = vec!["@base.qcow2", "--name=a", "--image-dir=d"];
    args.extend(many.iter().map(String::as_str));
    assert!(
        place.mistake(&args).contains("20 further disks are too many; a machine has room for 19")
    );
}

#[test]
fn the_environment_and_the_file_name_themselves() {
    let place = Place::new(false);
    let image = Some(place.path("base.qcow2"));
    let bad = Settings { image, memory: Some("lots".into()), ..Settings::default() };
    let environment = Layers { environment: bad.clone(), ..Layers::default() };
    assert_eq!(
        plan(&environment, &place.host).unwrap_err().to_string(),
        "IMG_RAM_MB: `lots` is not a whole number with an optional unit; write MiB as a plain \
         number, or a unit such as 512M or 2G"
    );
    let file = Layers { file: Some(("/b.yaml".into(), bad)), ..Layers::default() };
    let sentence = plan(&file, &place.host).unwrap_err().to_string();
    assert!(sentence.starts_with("`memory` in /b.yaml: `lots` is not"), "{sentence}");
}
