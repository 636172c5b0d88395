//! The plan as a whole: defaults, precedence, and the sentence for every mistake.

use super::*;
use crate::args::{Cli, Command, Settings};
use crate::host::MemoryLimit;
use crate::image::fetch::WantedDigest;
use clap::Parser;

struct Place {
    dir: tempfile::TempDir,
    host: Host,
}

impl Place {
    fn new(in_container: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Host {
            root: dir.path().to_owned(),
            in_container,
            hostname: Some("box".to_owned()),
            data_dir: Some("/home/u/.local/share".into()),
            memory: Some(MemoryLimit { bytes: 8 << 30, by_cgroup: false }),
            proxies: Default::default(),
            trust: Default::default(),
        };
        fs::write(dir.path().join("base.qcow2"), "QFI").unwrap();
        Self { dir, host }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn write(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "x").unwrap();
        self.path(name)
    }

    /// `@name` stands for the path of `name` in this place.
    fn run(&self, args: &[&str]) -> Result<Plan, ConfigError> {
        let expand = |arg: &&str| match arg.strip_prefix('@') {
            Some(name) => self.path(name),
            None => (*arg).to_owned(),
        };
        let args = ["berth", "run"].iter().map(|a| (*a).to_owned()).chain(args.iter().map(expand));
        let Command::Run(run) = Cli::try_parse_from(args).unwrap().command else {
            panic!("not for run")
        };
        plan(&Layers { flags: run.settings, ..Layers::default() }, &self.host)
    }

    fn mistake(&self, args: &[&str]) -> String {
        self.run(args).unwrap_err().to_string().replace(&self.path(""), "@")
    }
}

#[test]
fn the_defaults() {
    let place = Place::new(false);
    let plan = place.run(&["@base.qcow2"]).unwrap();
    let want = Plan {
        name: "box".into(),
        cpus: 1,
        memory_bytes: 1 << 30,
        root: Root::Image(RootImage {
            base: place.path("base.qcow2").into(),
            format: None,
            digest: None,
            size: None,
            queues: 0,
            engine: DiskEngine::Auto,
            limits: DiskLimits::default(),
        }),
        fetch: None,
        image_dir: "/home/u/.local/share/berth".into(),
        disks: vec![],
        boot: Boot::Disk { cmdline_extra: String::new() },
        network: NetworkConfig {
            net: Net::Nat,
            mac: None,
            mtu: None,
            vhost: Vhost::Auto,
            subnet: None,
            publish: vec![],
            dhcp: true,
        },
        vnc: Some(Vnc {
            listen: vec!["127.0.0.1:5900".parse().unwrap(), "[::1]:5900".parse().unwrap()],
            required: false,
            passwords: Default::default(),
            tls: None,
        }),
        display: Mode { width: 1024, height: 768 },
        cloud: CloudFiles::default(),
        stop_timeout: Duration::from_secs(25),
        console: ConsoleMode::Auto,
        ready: Ready::Lease,
        control: None,
        web_root: place.path("usr/share/novnc").into(),
        termination_log: None,
        warnings: vec![],
    };
    assert_eq!(plan, want);
}

#[test]
fn everything_given() {
    let place = Place::new(false);
    for name in ["k", "i", "m", "u", "n", "v", "d.img"] {
        place.write(name);
    }
    let digest = format!("sha512:{}", "0a".repeat(64));
    let plan = place
        .run(&[
            "@base.qcow2",
            "--image-sha256",
            &digest,
            "--image-format",
            "qcow2",
            "--image-dir",
            "@dir",
            "--disk-size",
            "10G",
            "--disk-queues",
            "3",
            "--disk-engine",
            "sync",
            "--disk",
            &format!("{},serial=s", place.path("d.img")),
            "--cpus",
            "2",
            "--memory",
            "2G",
            "--name",
            "pet",
            "--boot",
            "direct",
            "--kernel",
            "@k",
            "--initrd",
            "@i",
            "--cmdline",
            "quiet",
            "--net",
            "tap:vm0",
            "--mac",
            "52:54:00:00:00:01",
            "--mtu",
            "1450",
            "--vhost",
            "off",
            "--vm-ip",
            "10.0.0.6",
            "--vm-gw",
            "10.0.0.5",
            "--no-dhcp",
            "--no-vnc=true",
            "--display",
            "800x600",
            "--metadata",
            "@m",
            "--userdata",
            "@u",
            "--networkdata",
            "@n",
            "--vendordata",
            "@v",
            "--stop-timeout",
            "2m",
            "--console",
            "stdio",
            "--ready",
            "cloud-init",
            "--control",
            "c.sock",
            "--web-root",
            "/novnc",
            "--termination-log",
            "/tmp/t",
        ])
        .unwrap();
    let path = |name: &str| PathBuf::from(place.path(name));
    let want = Plan {
        name: "pet".into(),
        cpus: 2,
        memory_bytes: 2 << 30,
        root: Root::Image(RootImage {
            base: path("base.qcow2"),
            format: Some(Format::Qcow2),
            digest: Some(Digest::Sha512([10; 64])),
            size: Some(10 << 30),
            queues: 3,
            engine: DiskEngine::Sync,
            limits: DiskLimits::default(),
        }),
        fetch: None,
        image_dir: path("dir"),
        disks: vec![Disk { serial: Some("s".into()), ..Disk::new(path("d.img"), Format::Raw) }],
        boot: Boot::Kernel { kernel: path("k"), initrd: Some(path("i")), cmdline: "quiet".into() },
        network: NetworkConfig {
            net: Net::Tap("vm0".into()),
            mac: Some([0x52, 0x54, 0, 0, 0, 1]),
            mtu: Some(1450),
            vhost: Vhost::Off,
            subnet: Some(Subnet { guest: [10, 0, 0, 6].into(), gateway: [10, 0, 0, 5].into() }),
            publish: vec![],
            dhcp: false,
        },
        vnc: None,
        display: Mode { width: 800, height: 600 },
        cloud: CloudFiles {
            metadata: Some(path("m")),
            userdata: Some(path("u")),
            networkdata: Some(path("n")),
            vendordata: Some(path("v")),
        },
        stop_timeout: Duration::from_secs(120),
        console: ConsoleMode::Stdio,
        ready: Ready::CloudInit,
        control: Some("c.sock".into()),
        web_root: "/novnc".into(),
        termination_log: Some("/tmp/t".into()),
        warnings: vec![],
    };
    assert_eq!(plan, want);
}

#[test]
fn a_kernel_alone_is_enough() {
    let place = Place::new(false);
    place.write("k");
    let plan = place.run(&["--kernel", "@k"]).unwrap();
    assert_eq!(plan.root, Root::None);
    assert_eq!(
        place.mistake(&["--kernel", "@k", "--disk-size", "10G"]),
        "--disk-size: `10G` has no root disk to apply to; name an image, or drop it"
    );
}

#[test]
fn a_container_brings_files_along() {
    let place = Place::new(true);
    for name in [
        "metadata",
        "userdata",
        "vendordata",
        "volumes/b/2.img",
        "volumes/a.img",
        "volumes/no.txt",
        "dev/vm/disk1",
        "dev/vm/disk0",
        "dev/vm/other",
        "dev/termination-log",
        "image/debian",
    ] {
        place.write(name);
    }
    let plan = place.run(&["--image-name", "debian"]).unwrap();
    let path = |name: &str| PathBuf::from(place.path(name));
    assert_eq!(plan.image_dir, path("image"));
    assert!(matches!(&plan.root, Root::Image(image) if image.base == path("image/debian")));
    assert_eq!(plan.cloud.metadata, Some(path("metadata")));
    assert_eq!(plan.cloud.userdata, Some(path("userdata")));
    assert_eq!(plan.cloud.networkdata, None);
    assert_eq!(plan.cloud.vendordata, Some(path("vendordata")));
    assert_eq!(plan.termination_log, Some(path("dev/termination-log")));
    let found: Vec<_> = plan.disks.iter().map(|disk| disk.path.clone()).collect();
    let want = ["volumes/a.img", "volumes/b/2.img", "dev/vm/disk0", "dev/vm/disk1"];
    assert_eq!(found, want.map(path));
    assert!(plan.disks.iter().all(|disk| disk.format == Format::Raw));

    place.write("dev/vm/root");
    let plan = place.run(&["@base.qcow2", "--disk-size", "10G", "--disk-queues", "2"]).unwrap();
    let serials: Vec<_> = plan.disks.iter().map(|disk| disk.serial.as_deref().unwrap()).collect();
    assert_eq!(serials, ["a", "b-2", "disk0", "disk1"]);
    let serial = Some("root".to_owned());
    let root = Disk { queues: 2, serial, ..Disk::new(path("dev/vm/root"), Format::Raw) };
    assert_eq!(plan.root, Root::Device(root));
    assert_eq!(plan.warnings.len(), 2, "{:?}", plan.warnings);
}

#[test]
fn outside_a_container_fixed_paths_are_not_looked_at() {
    let place = Place::new(false);
    for name in ["metadata", "volumes/a.img", "dev/vm/root"] {
        place.write(name);
    }
    let plan = place.run(&["@base.qcow2"]).unwrap();
    assert_eq!(plan.cloud, CloudFiles::default());
    assert_eq!(plan.disks, []);
    assert!(matches!(plan.root, Root::Image(_)));
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
fn the_log_is_settled_first() {
    let with = |form: Option<&str>, level: Option<&str>| {
        let flags = Settings {
            log_format: form.map(Into::into),
            log_level: level.map(Into::into),
            ..Settings::default()
        };
        log_settings(&Layers { flags, ..Layers::default() }).map_err(|error| error.to_string())
    };
    assert_eq!(with(None, None), Ok((LogForm::Text, log::LevelFilter::Info)));
    assert_eq!(with(Some("json"), Some("debug")), Ok((LogForm::Json, log::LevelFilter::Debug)));
    assert_eq!(
        with(Some("xml"), None).unwrap_err(),
        "--log-format: `xml` is not known here; write text or json"
    );
    assert!(with(None, Some("off")).unwrap_err().contains("error, warn, info"));
}

#[test]
fn old_variables_are_answered_once_each() {
    assert_eq!(ignored_variables(|_| false), Vec::<String>::new());
    let told = ignored_variables(|name| ["LAUNCHER", "KVM_NET_OPTS"].contains(&name));
    assert_eq!(
        told,
        [
            "KVM_NET_OPTS held QEMU's arguments and is ignored: use --net, --mac, --mtu and --vhost",
            "LAUNCHER held QEMU's arguments and is ignored: there is no QEMU to launch",
        ]
    );
    assert_eq!(ignored_variables(|_| true).len(), 4);
}

#[test]
fn the_network_by_default_and_in_parts() {
    assert_eq!(Place::new(true).run(&["@base.qcow2"]).unwrap().network.net, Net::Pod);
    let place = Place::new(false);
    let with = |args: &[&str]| place.run(&[&["@base.qcow2"], args].concat());
    let published = with(&["--publish", "22:22", "--publish", "127.0.0.1:53:53/udp"]).unwrap();
    assert_eq!(published.network.publish.len(), 2);
    for (ip, gw) in [("10.0.0.5", "10.0.0.6"), ("192.168.254.2", "192.168.254.1")] {
        let subnet = with(&["--vm-ip", ip, "--vm-gw", gw]).unwrap().network.subnet.unwrap();
        assert_eq!((subnet.guest.to_string(), subnet.gateway.to_string()), (ip.into(), gw.into()));
    }
    assert_eq!(
        with(&["--vm-ip", "192.168.254.2"]).unwrap().network.subnet,
        Some(Subnet::default())
    );
    for (ip, gw) in [
        ("10.0.0.4", "10.0.0.5"),
        ("10.0.0.7", "10.0.0.6"),
        ("10.0.0.6", "10.0.0.6"),
        ("10.0.0.6", "10.0.0.9"),
        ("127.0.0.2", "127.0.0.1"),
        ("224.0.0.2", "224.0.0.1"),
        ("0.0.0.2", "0.0.0.1"),
    ] {
        assert!(with(&["--vm-ip", ip, "--vm-gw", gw]).is_err(), "{ip} {gw}");
    }
    for (args, on) in [
        (&["--no-vnc=0", "--no-dhcp=false"][..], true),
        (&["--no-vnc=1", "--no-dhcp=yes"], false),
        (&["--no-vnc", "--no-dhcp"], false),
    ] {
        let plan = with(args).unwrap();
        assert_eq!((plan.vnc.is_some(), plan.network.dhcp), (on, on), "{args:?}");
    }
}

#[test]
fn a_url_is_fetched_into_the_image_directory() {
    let place = Place::new(false);
    let digest = format!("sha256:{}", "0a".repeat(32));
    let args = ["https://me:secret@example.org/d/debian-12.raw.xz?x", "--image-dir", "@dir"];
    let more = ["--image-sha256", &digest, "--image-timeout", "5", "--image-tries", "3"];
    let plan = place.run(&[&args[..], &more].concat()).unwrap();
    let wanted = plan.fetch.as_ref().unwrap();
    assert_eq!(wanted.name, "debian-12.raw");
    assert_eq!(wanted.url.to_string(), "https://example.org/d/debian-12.raw.xz?...");
    assert_eq!(wanted.digest, Some(WantedDigest::Is(value::digest(&digest).unwrap())));
    assert_eq!((wanted.manner.stall, wanted.manner.tries), (Duration::from_secs(5), 3));
    let Root::Image(image) = &plan.root else { panic!("{:?}", plan.root) };
    // It is checked when it is fetched: the file there may be unpacked, and have another.
    assert_eq!((&image.base, &image.digest), (&place.path("dir/debian-12.raw").into(), &None));
    assert!(!format!("{plan:?}").contains("secret"));
    let named = place.run(&["http://h/", "--image-name", "b", "--image-sha256", "http://h/s"]);
    let wanted = named.unwrap().fetch.unwrap();
    assert_eq!(wanted.name, "b");
    assert!(matches!(wanted.digest, Some(WantedDigest::Listed(_))));
}

#[test]
fn limits_are_each_disk_s_own() {
    let place = Place::new(false);
    let plan = |args: &[&str]| place.run(&[&["@base.qcow2"], args].concat());
    for name in ["a.img", "b.img"] {
        place.write(name);
    }
    let disk = |options: &str| format!("{}{options}", place.path("a.img"));
    let (a, b) = (disk(",iops=7"), disk(",bps=0,serial=b"));
    let limited =
        plan(&["--disk-iops", "100", "--disk-bps", "2M", "--disk", &a, "--disk", &b]).unwrap();
    let limits = |iops, mib: u64| DiskLimits { iops, bytes_per_second: mib << 20 };
    assert!(matches!(&limited.root, Root::Image(image) if image.limits == limits(100, 2)));
    assert_eq!(limited.disks[0].limits(), limits(7, 2));
    assert_eq!(limited.disks[1].limits(), limits(100, 0));
    assert_eq!(plan(&["--disk", &disk("")]).unwrap().disks[0].limits(), DiskLimits::default());
    assert_eq!(
        place.mistake(&["@base.qcow2", "--disk-iops", "many"]),
        "--disk-iops: `many` is not a whole number from 0 to 1000000000; write a number from 0 to \
         1000000000"
    );
    assert_eq!(
        place.mistake(&["@base.qcow2", "--disk-bps", "fast"]),
        "--disk-bps: `fast` is not a whole number with an optional unit; write bytes per second as \
         a plain number, or a unit such as 50M"
    );
    assert_eq!(
        place.mistake(&["@base.qcow2", "--disk", &disk(",serial=x"), "--disk", &disk(",serial=x")]),
        "two disks would have the serial number x; give one another with ,serial="
    );
}

#[test]
fn a_disk_that_cannot_be_written_is_read_only() {
    let place = Place::new(true);
    let path = place.write("volumes/a.img");
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&path, permissions).unwrap();
    if File::options().write(true).open(&path).is_ok() {
        eprintln!("SKIPPED: this user may write to everything");
        return;
    }
    let plan = place.run(&["@base.qcow2"]).unwrap();
    assert!(plan.disks[0].read_only);
    assert!(plan.warnings[0].contains("a.img is a read-only disk"), "{:?}", plan.warnings);
}

#[test]
fn the_screen_is_for_this_host_unless_somebody_guards_it() {
    let place = Place::new(false);
    place.write("password");
    let vnc = |args: &[&str]| {
        let args: Vec<&str> = ["@base.qcow2"].iter().chain(args).copied().collect();
        let plan = place.run(&args).unwrap();
        (plan.vnc.unwrap(), plan.warnings)
    };
    let everywhere = vec!["[::]:5900".parse().unwrap()];
    for args in [&["--vnc-open"][..], &["--vnc-password=x"], &["--vnc-password-file", "@password"]]
    {
        let (vnc, _) = vnc(args);
        assert_eq!((vnc.listen, vnc.required), (everywhere.clone(), false), "{args:?}");
    }
    let (given, warnings) = vnc(&["--vnc-listen", "127.0.0.2:5901", "--vnc-listen", "::1"]);
    assert_eq!(given.listen, ["127.0.0.2:5901".parse().unwrap(), "[::1]:5900".parse().unwrap()]);
    assert!(given.required && warnings.is_empty());
    let (_, warnings) = vnc(&["--net=pod", "--vnc-open", "--vnc-listen=:5901"]);
    assert!(warnings[0].starts_with("the screen on [::]:5901 cannot be reached"), "{warnings:?}");
    let container = Place::new(true).run(&["@base.qcow2"]).unwrap();
    assert!(container.vnc.unwrap().required, "nobody else has that port in a pod");
}

#[test]
fn mistakes_about_the_screen() {
    let place = Place::new(false);
    place.write("password");
    std::fs::write(place.path("empty"), "\nx").unwrap();
    for (args, part) in [
        (&["--vnc-listen=:5901"][..], "--vnc-listen: `:5901` lets everybody in, since there is no"),
        (
            &["--vnc-listen=0.0.0.0"],
            "set VNC_PASSWORD or VNC_PASSWORD_FILE, or say with --vnc-open",
        ),
        (
            &["--vnc-listen=localhost:5900"],
            "`localhost:5900` is not an address of this host; write",
        ),
        (&["--vnc-password="], "--vnc-password: the password is empty; give one, or leave it away"),
        (&["--vnc-password-file=@none"], "--vnc-password-file: cannot read @none: No such file"),
        (&["--vnc-password-file=@empty"], "cannot read @empty: its first line is empty; name"),
        (&["--vnc-password=x", "--vnc-password-file=@password"], "both give the screen's password"),
        (&["--vnc-view-password-file=@password"], "and none for those who may do everything; set"),
        (&["--vnc-tls-cert=@base.qcow2"], "is a certificate without its key; give --vnc-tls-key"),
        (&["--vnc-tls-key=@base.qcow2"], "is a key without its certificate; give --vnc-tls-cert"),
        (
            &["--vnc-tls-cert=@base.qcow2", "--vnc-tls-key=@base.qcow2"],
            "--vnc-tls-cert: @base.qcow2 cannot be read as a certificate; name a PEM file",
        ),
        (&["--display=1366x768"], "--display: `1366x768` is not a size that the display can have"),
    ] {
        let args: Vec<String> = ["@base.qcow2"]
            .iter()
            .chain(args)
            .map(|arg| match arg.split_once("=@") {
                Some((flag, name)) => format!("{flag}={}", place.path(name)),
                None => (*arg).to_owned(),
            })
            .collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let told = place.mistake(&args);
        assert!(told.contains(part), "{args:?}: {told}");
    }
}
