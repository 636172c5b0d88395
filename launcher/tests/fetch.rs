//! Fetching from servers of every kind of malice and misfortune: there is a whole base at the end,
//! or none. Each test is the program itself against a server in this process.

#[path = "fetch/content.rs"]
mod content;
#[path = "fetch/place.rs"]
mod place;
#[path = "fetch/process.rs"]
mod process;
#[path = "fetch/server.rs"]
mod server;
#[path = "fetch/servers.rs"]
mod servers;

use std::fs;

use place::{Place, image, sha256};
use server::{Server, file};

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
