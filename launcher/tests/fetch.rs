//! Fetching from servers of every kind of malice and misfortune: there is a whole base at the end,
//! or none. Each test is the program itself against a server in this process.

#[path = "fetch/place.rs"]
mod place;
#[path = "fetch/server.rs"]
mod server;

use std::fs;
use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use place::{Place, image, outcome, sha256};
use server::{Server, file, hang, head, send};

const WHOLE: usize = usize::MAX;
const TAG: &str = "\"one\"";

/// A server of one file, as it should be.
fn good(content: &[u8]) -> Server {
    let content = content.to_owned();
    Server::start(move |request, stream| file(request, stream, &content, TAG, WHOLE))
}

#[test]
fn a_base_is_fetched_once() {
    let (place, content) = (Place::new(), image(1_000_003, 1));
    let server = good(&content);
    let url = server.url("d/disk.img?token=secret");
    let said = place.pull(&[&url]).unwrap();
    assert!(said.starts_with(place.path("disk.img").to_str().unwrap()), "{said}");
    place.has("disk.img", &content);
    assert_eq!(server.requests().len(), 1);
    assert_eq!(server.requests()[0].header("accept-encoding"), Some("identity"));
    // Then nobody is asked any more, whatever of it is known.
    let record = fs::read_to_string(place.path("disk.img.base")).unwrap();
    assert!(record.contains(&sha256(&content)) && !record.contains("secret"), "{record}");
    let digest = sha256(&content);
    for args in [&[url.as_str()][..], &[&url, "--image-sha256", &digest]] {
        let said = place.pull(args).unwrap();
        assert!(said.contains("nothing is fetched") && !said.contains("secret"), "{said}");
    }
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_base_that_is_there_has_to_be_the_one() {
    let (place, content) = (Place::new(), image(100_000, 2));
    let server = good(&content);
    let url = server.url("disk.img");
    place.pull(&[&url]).unwrap();
    let asked = server.requests().len();
    let other = server.url("other/disk.img");
    let error = place.pull(&[&other]).unwrap_err();
    assert!(error.contains(&format!("is fetched from {url}, not {other}")), "{error}");
    let zeros = format!("sha256:{}", "0".repeat(64));
    let error = place.pull(&[&url, "--image-sha256", &zeros]).unwrap_err();
    assert!(error.contains(&sha256(&content)) && error.contains(&zeros), "{error}");
    // From another place, but with the right digest.
    place.pull(&[&other, "--image-sha256", &sha256(&content)]).unwrap();
    // Touched, but the same.
    fs::copy(place.path("disk.img"), place.path("copy")).unwrap();
    fs::rename(place.path("copy"), place.path("disk.img")).unwrap();
    place.pull(&[&url]).unwrap();
    place.has("disk.img", &content);
    // Not the same.
    fs::remove_file(place.path("disk.img")).unwrap();
    fs::write(place.path("disk.img"), image(100_000, 3)).unwrap();
    let error = place.pull(&[&url]).unwrap_err();
    assert!(error.contains("has changed since it was fetched"), "{error}");
    // Nobody knows what.
    fs::remove_file(place.path("disk.img.base")).unwrap();
    let error = place.pull(&[&url]).unwrap_err();
    assert!(error.contains("was not fetched by Berth"), "{error}");
    let error = place.pull(&[&url, "--image-sha256", &sha256(&content)]).unwrap_err();
    assert!(error.contains(&sha256(&content)), "{error}");
    place.pull(&[&url, "--image-sha256", &sha256(&image(100_000, 3))]).unwrap();
    place.pull(&[&url]).unwrap();
    assert_eq!(server.requests().len(), asked);
}

#[test]
fn cut_connections_are_gone_on_from() {
    let (place, content) = (Place::new(), image(900_001, 4));
    let served = content.clone();
    let server = Server::start(move |request, stream| {
        file(request, stream, &served, TAG, [1, 65_537, 300_000, 0, WHOLE][request.number.min(4)]);
    });
    place.pull(&[&server.url("disk.img")]).unwrap();
    place.has("disk.img", &content);
    let requests = server.requests();
    let from: Vec<usize> = requests.iter().map(server::Request::from).collect();
    assert_eq!(from, [0, 1, 65_538, 365_538, 365_538]);
    assert!(requests.iter().skip(1).all(|r| r.header("if-range") == Some(TAG)));
}

#[test]
fn heads_that_are_cut_slow_or_huge() {
    let content = image(100_000, 5);
    for cut in [0, 1, 12, 40, 58] {
        let (place, served) = (Place::new(), content.clone());
        let server = Server::start(move |request, stream| match request.number {
            0 => {
                let text = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nETag: \"a\"\r\n\r\n";
                send(stream, &text[..cut]);
            }
            _ => file(request, stream, &served, TAG, WHOLE),
        });
        place.pull(&[&server.url("disk.img")]).unwrap();
        place.has("disk.img", &content);
    }
    let (place, served) = (Place::new(), content.clone());
    let slow = Server::start(move |request, stream| match request.number {
        0 => {
            for byte in b"HTTP/1.1 200 OK\r\nX-Slow: 1\r\n".iter().cycle() {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                sleep(Duration::from_millis(50));
            }
        }
        _ => file(request, stream, &served, TAG, WHOLE),
    });
    place.pull(&[&slow.url("disk.img"), "--image-timeout", "1500ms"]).unwrap();
    place.has("disk.img", &content);
    let place = Place::new();
    let huge = Server::start(|_, stream| {
        send(stream, "HTTP/1.1 200 OK\r\n");
        while stream.write_all(format!("X-More: {}\r\n", "x".repeat(5000)).as_bytes()).is_ok() {}
    });
    place.pull(&[&huge.url("disk.img")]).unwrap_err();
    place.has_nothing();
}

#[test]
fn ranges_that_are_ignored_or_wrong_begin_anew() {
    let content = image(400_000, 6);
    for wrong in [
        "",
        "Content-Range: bytes 0-399999/400000",
        "Content-Range: bytes 100001-399999/400000",
        "Content-Range: bytes 100000-399999/*",
        "Content-Range: bytes 100000-299999/400000",
        "Content-Range: bytes 100000-399999/500000",
        "Content-Range: nonsense",
        "416",
        "200",
    ] {
        let (place, served) = (Place::new(), content.clone());
        let server = Server::start(move |request, stream| match (request.number, wrong) {
            (0, _) => file(request, stream, &served, TAG, 100_000),
            (1, "200") => {
                head(stream, &["200 OK", "Content-Length: 400000", "ETag: \"one\""]);
                send(stream, &served);
            }
            (1, "416") => head(stream, &["416 Range Not Satisfiable", "Content-Length: 0"]),
            (1, wrong) => {
                let lines = ["206 Partial Content", "ETag: \"one\"", "Content-Length: 300000"];
                let lines: Vec<&str> = lines.into_iter().chain([wrong]).collect();
                let lines = if wrong.is_empty() { &lines[..3] } else { &lines[..] };
                head(stream, lines);
                send(stream, &served[100_000..]);
            }
            _ => {
                assert_eq!(request.from(), 0, "{wrong}");
                file(request, stream, &served, TAG, WHOLE);
            }
        });
        place.pull(&[&server.url("disk.img")]).unwrap_or_else(|said| panic!("{wrong}: {said}"));
        place.has("disk.img", &content);
        assert_eq!(server.requests().len(), if wrong == "200" { 2 } else { 3 }, "{wrong}");
    }
}

#[test]
fn a_file_that_changes_in_between_is_never_mixed() {
    let (old, new) = (image(500_000, 7), image(500_000, 8));
    // Told by If-Range; not, but by the tag; by neither, where the length tells.
    for kind in 0..4 {
        let place = Place::new();
        let (first, second) = (old.clone(), new.clone());
        let server = Server::start(move |request, stream| match (request.number, kind) {
            (0, 3) => {
                head(stream, &["200 OK", "Content-Length: 500000", "ETag: W/\"weak\""]);
                send(stream, &first[..200_000]);
            }
            (0, _) => file(request, stream, &first, TAG, 200_000),
            (1, 1 | 2) => {
                let tag = if kind == 1 { "ETag: \"two\"" } else { "X-None: x" };
                let last = if kind == 1 { 499_999 } else { 499_998 };
                let range = format!("Content-Range: bytes 200000-{last}/{}", last + 1);
                let length = format!("Content-Length: {}", last - 199_999);
                head(stream, &["206 Partial Content", tag, &length, &range]);
                send(stream, &second[200_000..]);
            }
            _ => file(request, stream, &second, "\"two\"", WHOLE),
        });
        place.pull(&[&server.url("disk.img")]).unwrap_or_else(|said| panic!("{kind}: {said}"));
        place.has("disk.img", &new);
        if kind == 3 {
            assert_eq!(server.requests()[1].header("range"), None, "a weak tag is no reason");
        }
    }
}

#[test]
fn answers_that_are_no_image() {
    for (lines, body, part, asked) in [
        (&["404 Not Found", "Content-Length: 4"][..], "gone", "answered 404 Not Found", 1),
        (&["403 Forbidden", "Content-Length: 0"], "", "403 Forbidden", 1),
        (&["204 No Content"], "", "204 No Content", 1),
        (&["500 Oops", "Content-Length: 0"], "", "gave up after 3 tries", 3),
        (&["200 OK", "Content-Length: 35"], "<!DOCTYPE html><html>Log in</html>\n", "cannot be", 1),
        (&["200 OK", "Content-Length: 20"], "{\"error\": \"expired\"}", "neither a qcow2", 1),
        (&["200 OK", "Content-Length: 0"], "", "cannot be used", 1),
        (&["200 OK"], "cut or not, who knows", "does not say how long", 1),
        (&["200 OK", "Content-Encoding: gzip", "Content-Length: 1"], "x", "encoding \"gzip\"", 1),
        (&["nonsense"], "", "gave up after 3 tries", 3),
    ] {
        let place = Place::new();
        let owned: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let server = Server::start(move |_, stream| {
            head(stream, &owned.iter().map(String::as_str).collect::<Vec<_>>());
            send(stream, body);
        });
        let error = place.pull(&[&server.url("disk.img")]).unwrap_err();
        assert!(error.contains(part), "{lines:?}: {error}");
        assert_eq!(server.requests().len(), asked, "{lines:?}");
        place.has_nothing();
    }
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    let (place, content) = (Place::new(), image(50_000, 9));
    let served = content.clone();
    let server = Server::start(move |request, stream| match request.number {
        0 => head(stream, &["503 Busy", "Retry-After: 2", "Content-Length: 0"]),
        _ => file(request, stream, &served, TAG, WHOLE),
    });
    let began = Instant::now();
    place.pull(&[&server.url("disk.img")]).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(2));
    place.has("disk.img", &content);
}

#[test]
fn redirects() {
    let (place, content) = (Place::new(), image(50_000, 10));
    let served = content.clone();
    let server = Server::start(move |request, stream| {
        let to = match request.path() {
            "/start" => "/a/b?c",
            "/a/b?c" => "../../ok",
            "/loop" => "/loop",
            "/ftp" => "ftp://example.org/x",
            "/none" => "",
            "/away" => "http://localhost:PORT/seen",
            _ => return file(request, stream, &served, TAG, WHOLE),
        };
        let port = stream.local_addr().unwrap().port().to_string();
        let to = format!("Location: {}", to.replace("PORT", &port));
        head(stream, &["302 Found", &to, "Content-Length: 0"]);
    });
    place.pull(&[&server.url("start"), "--image-name", "disk.img"]).unwrap();
    place.has("disk.img", &content);
    for (path, part) in [
        ("loop", "more than 10 redirects"),
        ("ftp", "`ftp://example.org/x`, which is no http or https URL"),
        ("none", "more than 10 redirects"),
    ] {
        let place = Place::new();
        let error = place.pull(&[&server.url(path)]).unwrap_err();
        assert!(error.contains(part), "{error}");
        place.has_nothing();
    }
    // User and password are for one server only, and for nobody who reads the log.
    let place = Place::new();
    let url = server.url("away").replace("http://", "http://me:p%40ss@");
    let said = place.pull(&[&url, "--image-name", "disk.img", "--log-level", "trace"]).unwrap();
    let requests = server.requests();
    let [.., first, last] = &requests[..] else { panic!() };
    assert_eq!(first.header("authorization"), Some("basic bwu6cebzcw=="));
    assert_eq!((last.path(), last.header("authorization")), ("/seen", None));
    assert!(!said.contains("p%40ss") && !said.contains("p@ss") && !said.contains("bWU6"), "{said}");
}

#[test]
fn stalls_end() {
    let content = image(600_000, 11);
    for dribble in [false, true] {
        let (place, served) = (Place::new(), content.clone());
        let server = Server::start(move |request, stream| match request.number {
            0 => {
                file(request, stream, &served, TAG, 100_000);
                for byte in &served[100_000..] {
                    if !dribble {
                        hang();
                    }
                    sleep(Duration::from_millis(30));
                    if stream.write_all(&[*byte]).is_err() {
                        return;
                    }
                }
            }
            _ => file(request, stream, &served, TAG, WHOLE),
        });
        let began = Instant::now();
        place.pull(&[&server.url("disk.img"), "--image-timeout", "1500ms"]).unwrap();
        assert!(began.elapsed() < Duration::from_secs(20));
        place.has("disk.img", &content);
        assert!(server.requests()[1].from() >= 100_000);
    }
}

#[test]
fn bodies_of_unknown_length() {
    let content = image(300_000, 12);
    let chunks = |content: &[u8]| {
        let mut bytes = Vec::new();
        for chunk in content.chunks(70_000) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            bytes.extend([chunk, b"\r\n"].concat());
        }
        [&bytes[..], b"0\r\n\r\n"].concat()
    };
    let (place, body) = (Place::new(), chunks(&content));
    let server = Server::start(move |request, stream| {
        head(stream, &["200 OK", "Transfer-Encoding: chunked"]);
        let end = if request.number == 0 { body.len() - 6 } else { body.len() };
        send(stream, &body[..end]);
    });
    place.pull(&[&server.url("disk.img")]).unwrap();
    place.has("disk.img", &content);
    assert_eq!(server.requests().len(), 2, "the first was cut");
    // By the end of the connection alone: with a digest it can be known whether it is whole.
    let (place, body) = (Place::new(), content.clone());
    let server = Server::start(move |_, stream| {
        head(stream, &["200 OK"]);
        send(stream, &body);
    });
    place.pull(&[&server.url("disk.img"), "--image-sha256", &sha256(&content)]).unwrap();
    place.has("disk.img", &content);
}

#[test]
fn digests_decide() {
    let (content, other) = (image(70_000, 13), image(70_000, 14));
    let (good, bad) = (sha256(&content), sha256(&other));
    let lists = [("GOOD", good.clone()), ("BAD", bad.clone())];
    let served = content.clone();
    let server = Server::start(move |request, stream| {
        let name = request.path().trim_start_matches('/').to_owned();
        let text = match lists.iter().find(|(list, _)| *list == name) {
            Some((_, digest)) => format!("{}  disk.img\n", digest.replace("sha256:", "")),
            None if name == "NONE" => "<html>nothing</html>".to_owned(),
            None => return file(request, stream, &served, TAG, WHOLE),
        };
        head(stream, &["200 OK", &format!("Content-Length: {}", text.len())]);
        send(stream, text);
    });
    let url = server.url("disk.img");
    let place = Place::new();
    for digest in [bad.clone(), server.url("BAD")] {
        let error = place.pull(&[&url, "--image-sha256", &digest]).unwrap_err();
        assert!(error.contains(&good) && error.contains(&bad), "{error}");
        place.has_nothing();
    }
    let error = place.pull(&[&url, "--image-sha256", &server.url("NONE")]).unwrap_err();
    assert!(error.contains("has no SHA-256 or SHA-512 digest of disk.img"), "{error}");
    place.has_nothing();
    let list = server.url("GOOD");
    place.pull(&[&url, "--image-sha256", &list]).unwrap();
    place.has("disk.img", &content);
    let asked = server.requests().len();
    place.pull(&[&url, "--image-sha256", &list]).unwrap();
    place.pull(&[&url, "--image-sha256", &good]).unwrap();
    assert_eq!(server.requests().len(), asked, "what has been checked is not asked for again");
    let error = place.pull(&[&url, "--image-sha256", &server.url("BAD")]).unwrap_err();
    assert!(error.contains(&good) && error.contains(&bad), "{error}");
}

#[test]
fn compressed_images_are_unpacked() {
    let content = image(800_000, 15);
    let input = tempfile::NamedTempFile::new().unwrap();
    fs::write(input.path(), &content).unwrap();
    for (program, suffix) in [("gzip", "gz"), ("xz", "xz"), ("zstd", "zst")] {
        let Ok(output) = Command::new(program).arg("-c").arg(input.path()).output() else {
            eprintln!("skipped: {program} is not installed");
            continue;
        };
        let packed = output.stdout;
        let (place, served) = (Place::new(), packed.clone());
        let server = Server::start(move |request, stream| {
            let limit = if request.number == 0 { 200_000 } else { WHOLE };
            file(request, stream, &served, TAG, limit);
        });
        let url = server.url(&format!("disk.raw.{suffix}"));
        let digest = sha256(&packed);
        place.pull(&[&url, "--image-sha256", &digest]).unwrap();
        place.has("disk.raw", &content);
        assert_eq!(server.requests().len(), 2);
        place.pull(&[&url, "--image-sha256", &digest]).unwrap();
        assert_eq!(server.requests().len(), 2);
        // Damaged, and nobody gave a digest.
        let place = Place::new();
        let half = packed[..packed.len() / 2].to_owned();
        let error = place.pull(&[&good(&half).url("disk.raw")]).unwrap_err();
        assert!(error.contains("cannot be unpacked"), "{error}");
        place.has_nothing();
    }
}

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
            .args(["run", &server.url("disk.img"), "--name", "pet", "--net", "none"])
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
        .args(["run", &server.url("none.img/"), "--image-name", "disk.img", "--net", "none"])
        .env_clear()
        .env("IMG_DIR", place.path(""))
        .output()
        .unwrap();
    let said = outcome(&output).unwrap_err();
    assert!(said.contains("give the other another --image-name"), "{said}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn cuts_at_any_byte() {
    let content = image(3_000, 21);
    let run = &|cut: usize| {
        let (place, served) = (Place::new(), content.clone());
        let server = Server::start(move |request, stream| {
            if request.number > 0 {
                return file(request, stream, &served, TAG, WHOLE);
            }
            let text = b"HTTP/1.1 200 OK\r\nETag: \"one\"\r\nContent-Length: 3000\r\n\r\n";
            let all = [&text[..], &served].concat();
            send(stream, &all[..cut.min(all.len())]);
        });
        place.pull(&[&server.url("disk.img")]).unwrap_or_else(|said| panic!("{cut}: {said}"));
        place.has("disk.img", &content);
    };
    let cuts: Vec<usize> = (0..60).step_by(4).chain((60..3_060).step_by(211)).collect();
    std::thread::scope(|scope| {
        for cut in cuts {
            scope.spawn(move || run(cut));
        }
    });
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
