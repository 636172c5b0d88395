//! Several processes, killed ones, full volumes, proxies; and a run that fetches first.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::place::{Place, image, outcome};
use super::server::{Server, file, hang, head, send};
use super::{TAG, WHOLE, good};

#[test]
fn ten_at_once_fetch_once() {
    let (place, content) = (Place::new(), image(2_000_000, 16));
    let served = content.clone();
    let server = Server::start(move |request, stream| {
        head(stream, &["200 OK", "Content-Length: 2000000", "ETag: \"one\""]);
        assert_eq!(request.from(), 0);
        for part in served.chunks(100_000) {
            send(stream, part);
            sleep(Duration::from_millis(100));
        }
    });
    let url = server.url("disk.img");
    let all: Vec<_> = (0..10).map(|_| place.start(&[&url])).collect();
    for child in all {
        outcome(&child.wait_with_output().unwrap()).unwrap();
    }
    place.has("disk.img", &content);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn killed_at_any_moment_the_next_one_goes_on() {
    let (place, content) = (Place::new(), image(3_000_000, 17));
    let served = content.clone();
    let server = Server::start(move |request, stream| {
        let from = request.from();
        let range = format!("Content-Range: bytes {from}-2999999/3000000");
        let length = format!("Content-Length: {}", 3_000_000 - from);
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let lines = [status, "ETag: \"one\"", &length, &range];
        head(stream, if from > 0 { &lines } else { &lines[..3] });
        for part in served[from..].chunks(50_000) {
            send(stream, part);
            sleep(Duration::from_millis(5));
        }
    });
    let url = server.url("disk.img");
    let mut state = 88_172_645_463_325_252u64;
    for _ in 0..12 {
        let mut child = place.start(&[&url]);
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        sleep(Duration::from_millis(state >> 33 & 0xff));
        child.kill().unwrap();
        child.wait().unwrap();
        if place.path("disk.img").exists() {
            assert!(fs::read(place.path("disk.img")).unwrap() == content);
        }
    }
    place.pull(&[&url]).unwrap();
    place.has("disk.img", &content);
    // What a kill at an unlucky moment leaves beside a base goes at the next start.
    for name in [".disk.img.part", ".disk.img.part.json", ".disk.img.unpacked"] {
        fs::write(place.path(name), "left").unwrap();
    }
    place.pull(&[&url]).unwrap();
    place.has("disk.img", &content);
}

#[test]
fn a_signal_ends_it_at_once_and_keeps_the_part() {
    let (place, content) = (Place::new(), image(500_000, 18));
    let served = content.clone();
    let server = Server::start(move |request, stream| match request.number {
        0 => {
            // Not in the middle of zeros, which are not written.
            file(request, stream, &served, TAG, 400_000);
            hang();
        }
        _ => file(request, stream, &served, TAG, WHOLE),
    });
    let url = server.url("disk.img");
    let child = place.start(&[&url, "--image-timeout", "60"]);
    let part = place.path(".disk.img.part");
    while fs::metadata(&part).map_or(0, |meta| meta.len()) < 400_000 {
        sleep(Duration::from_millis(20));
    }
    let began = Instant::now();
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(1));
    assert!(outcome(&output).unwrap_err().contains("stopped by a signal"));
    place.pull(&[&url]).unwrap();
    place.has("disk.img", &content);
    assert_eq!(server.requests()[1].from(), 400_000);
}

#[test]
fn a_full_volume_is_one_sentence() {
    let place = Place::new();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let server = Server::start(move |request, stream| {
        if request.path() == "/large.img" {
            return head(stream, &["200 OK", "Content-Length: 20000000"]);
        }
        head(stream, &["200 OK", "Transfer-Encoding: chunked"]);
        let chunk = [b"10000\r\n", &[7; 65536][..], b"\r\n"].concat();
        while stream.write_all(&chunk).is_ok() {
            counted.fetch_add(65536, Ordering::Relaxed);
        }
    });
    for (name, part) in [("large.img", "needs 19.1 MiB more"), ("endless.img", "does not say")] {
        let script = format!(
            "mount -t tmpfs -o size=12m none '{dir}' || exit 77; '{berth}' image pull '{url}'; \
             status=$?; ls -lA '{dir}' >&2; exit $status",
            dir = place.path("").display(),
            berth = env!("CARGO_BIN_EXE_berth"),
            url = server.url(name),
        );
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
        let Ok(output) = command.env("IMG_DIR", place.path("")).output() else {
            return eprintln!("skipped: unshare is not installed");
        };
        if [Some(1), Some(0)].contains(&output.status.code()) {
            let error = outcome(&output).unwrap_err();
            assert!(error.contains("is full: ") && error.contains(part), "{error}");
            continue;
        }
        return eprintln!("skipped: no tmpfs can be mounted here: {output:?}");
    }
    assert!(sent.load(Ordering::Relaxed) < 30_000_000);
}

#[test]
fn proxies_are_used_or_not() {
    let (place, content) = (Place::new(), image(50_000, 19));
    let origin = Arc::new(good(&content));
    let behind = Arc::clone(&origin);
    let proxy = Server::start(move |request, stream| {
        assert_eq!(request.line, "CONNECT image.invalid:80 HTTP/1.1");
        head(stream, &["200 OK"]);
        let mut there = std::net::TcpStream::connect(&behind.address).unwrap();
        let (mut from, mut to) = (there.try_clone().unwrap(), stream.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut to, &mut there));
        let _ = std::io::copy(&mut from, stream);
    });
    let mut command = place.command(&["http://image.invalid/disk.img"]);
    let output = command.env("HTTP_PROXY", format!("http://{}", proxy.address)).output().unwrap();
    outcome(&output).unwrap();
    place.has("disk.img", &content);
    let place = Place::new();
    let mut command = place.command(&[&origin.url("disk.img")]);
    let output = command
        .env("http_proxy", "http://127.0.0.1:1")
        .env("no_proxy", "127.0.0.0/8")
        .output()
        .unwrap();
    outcome(&output).unwrap();
    place.has("disk.img", &content);
    assert_eq!((proxy.requests().len(), origin.requests().len()), (1, 2));
}

#[test]
fn a_run_fetches_first() {
    let (place, content) = (Place::new(), image(100_000, 20));
    let server = good(&content);
    for _ in 0..2 {
        // Without a kernel in the image it ends before there is a machine.
        let output = Command::new(env!("CARGO_BIN_EXE_berth"))
            .args(["run", &server.url("disk.img"), "--name", "pet", "--net", "none", "--no-vnc"])
            .env_clear()
            .env("IMG_DIR", place.path(""))
            .output()
            .unwrap();
        let said = outcome(&output).unwrap_err();
        assert!(said.contains("made the disk"), "{said}");
        // The disk goes again with the machine that was not to be; the base stays.
        place.has("disk.img", &content);
    }
    assert_eq!(server.requests().len(), 1);
    let output = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args([
            "run",
            &server.url("none.img/"),
            "--image-name",
            "disk.img",
            "--net",
            "none",
            "--no-vnc",
        ])
        .env_clear()
        .env("IMG_DIR", place.path(""))
        .output()
        .unwrap();
    let said = outcome(&output).unwrap_err();
    assert!(said.contains("give the other another --image-name"), "{said}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn what_was_durable_when_it_was_killed_is_not_fetched_again() {
    let (place, content) = (Place::new(), Arc::new(image(80_000_000, 22)));
    let served = Arc::clone(&content);
    let server = Server::start(move |request, stream| match request.number {
        0 => {
            file(request, stream, &served, TAG, 75_000_000);
            hang();
        }
        _ => file(request, stream, &served, TAG, WHOLE),
    });
    let url = server.url("disk.img");
    let mut child = place.start(&[&url]);
    let state = place.path(".disk.img.part.json");
    let none = "\"synced\": 0,";
    while fs::read_to_string(&state).map_or(true, |state| state.contains(none)) {
        assert!(child.try_wait().unwrap().is_none(), "it hangs");
        sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    place.pull(&[&url]).unwrap();
    place.has("disk.img", &content);
    let from = server.requests()[1].from();
    assert!((64 << 20..75_000_000).contains(&from), "{from}");
}
