//! Parts of the plan: the network, the image that is fetched, disks, the screen, and memory.

use super::super::*;
use super::Place;
use crate::host::MemoryLimit;
use crate::image::fetch::WantedDigest;

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
    for little_or_much in ["1k", "2G"] {
        assert_eq!(
            place.mistake(&["@base.qcow2", "--disk-cache", little_or_much]),
            format!(
                "--disk-cache: `{little_or_much}` is too little or too much memory for an image's tables; \
                 write a size from 64K to 1G, such as 8M"
            )
        );
    }
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

#[test]
fn a_balloon_for_a_tight_cgroup_stays_inflated() {
    let mut place = Place::new(true);
    let limit = |mib: u64, by_cgroup| Some(MemoryLimit { bytes: mib << 20, by_cgroup });
    for (memory, deflate_on_oom) in [
        (None, true),
        (limit(1088, true), true),
        (limit(1087, true), false),
        (limit(1087, false), true),
    ] {
        place.host.memory = memory;
        let plan = place.run(&["@base.qcow2"]).unwrap();
        assert_eq!(plan.balloon, Some(BalloonConfig { deflate_on_oom }), "{memory:?}");
    }
    assert_eq!(place.run(&["@base.qcow2", "--balloon", "off"]).unwrap().balloon, None);
    assert_eq!(
        place.mistake(&["@base.qcow2", "--balloon", "512M"]),
        "--balloon: `512M` is not known here; write on or off"
    );
}

#[test]
fn a_generation_is_known_new_or_given() {
    let place = Place::new(false);
    let wish =
        |text| place.run(&["@base.qcow2", "--generation-id", text]).map(|plan| plan.generation);
    assert_eq!(wish("new").unwrap(), Wish::New);
    let id = "0a0b0c0d-0102-4304-8506-0708090a0b0c";
    assert_eq!(wish(id).unwrap(), Wish::Is(id.parse().unwrap()));
    assert_eq!(
        place.mistake(&["@base.qcow2", "--generation-id", "old"]),
        "--generation-id: `old` is not known here; write auto, new or a UUID"
    );
}

#[test]
fn memory_on_huge_pages_is_not_what_a_cgroup_s_limit_is_about() {
    let mut place = Place::new(true);
    place.host.memory = Some(MemoryLimit { bytes: 128 << 20, by_cgroup: true });
    for (size, page) in [
        ("2M", HugePage::TwoMib),
        ("2Mi", HugePage::TwoMib),
        ("2048k", HugePage::TwoMib),
        ("1G", HugePage::OneGib),
        ("1 GiB", HugePage::OneGib),
    ] {
        let plan = place.run(&["@base.qcow2", "--hugepages", size]).unwrap();
        assert_eq!((plan.hugepages, plan.memory_bytes), (Some(page), 1 << 30), "{size}");
        // It tells how the guest's memory does.
        assert!(plan.balloon.is_some());
    }
    for (args, want) in [
        (
            ["--hugepages", "4M", "--memory", "1G"],
            "--hugepages: `4M` is not a size that huge pages have; write 2M or 1G",
        ),
        (
            ["--hugepages", "2", "--memory", "1G"],
            "--hugepages: `2` is not a size that huge pages have; write 2M or 1G",
        ),
        (
            ["--hugepages", "1G", "--memory", "2500"],
            "--memory: `2500` is not a multiple of 1 GiB, a page of --hugepages; give 2 GiB, for example",
        ),
        (
            ["--hugepages", "1G", "--memory", "512M"],
            "--memory: `512M` is not a multiple of 1 GiB, a page of --hugepages; give 1 GiB, for example",
        ),
        (
            ["--hugepages", "2M", "--memory", "65"],
            "--memory: `65` is not a multiple of 2 MiB, a page of --hugepages; give 64 MiB, for example",
        ),
    ] {
        assert_eq!(place.mistake(&[&["@base.qcow2"], &args[..]].concat()), want);
    }
}
