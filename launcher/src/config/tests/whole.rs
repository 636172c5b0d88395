//! The plan as a whole: defaults, everything given, and what a container brings along.

use super::super::*;
use super::Place;
use crate::args::Settings;

#[test]
fn the_defaults() {
    let place = Place::new(false);
    let plan = place.run(&["@base.qcow2"]).unwrap();
    let want = Plan {
        name: "box".into(),
        cpus: 1,
        memory_bytes: 1 << 30,
        hugepages: None,
        balloon: Some(BalloonConfig { deflate_on_oom: true }),
        vsock: None,
        generation: Wish::Auto,
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
        table_cache: 2 << 20,
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
            "--disk-cache",
            "64M",
            "--cpus",
            "2",
            "--hugepages",
            "1G",
            "--memory",
            "2G",
            "--vsock",
            "@vm.vsock,cid=42",
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
        hugepages: Some(HugePage::OneGib),
        balloon: Some(BalloonConfig { deflate_on_oom: true }),
        vsock: Some(Vsock { path: path("vm.vsock"), cid: 42 }),
        generation: Wish::Auto,
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
        table_cache: 64 << 20,
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
