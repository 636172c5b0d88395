//! Servers that cut, stall, lie, redirect or change their minds.

use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::place::{Place, image};
use super::server::{Server, file, hang, head, send};
use super::{TAG, WHOLE};

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
    let from: Vec<usize> = requests.iter().map(super::server::Request::from).collect();
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
