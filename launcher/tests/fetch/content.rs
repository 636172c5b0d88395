//! What a base must be: of a stated length, of the right digest, unpacked.

use std::fs;
use std::process::Command;

use super::place::{Place, image, sha256};
use super::server::{Server, file, head, send};
use super::{TAG, WHOLE, good};

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
