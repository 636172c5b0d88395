//! An HTTP server that does to its clients whatever a test wants: it hands each request and its
//! connection to a function. A file can be served as it should be, too.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A request, as far as tests look at it.
#[derive(Clone, Debug)]
pub struct Request {
    /// How many came before it.
    pub number: usize,
    /// Method and target.
    pub line: String,
    /// The header's lines, in lower case.
    pub headers: Vec<String>,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}: ");
        self.headers.iter().find_map(|line| line.strip_prefix(prefix.as_str()))
    }

    /// Where the range that is asked for begins; 0 without one.
    pub fn from(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap())
    }

    /// The target's path.
    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// Serves until the test ends.
pub struct Server {
    /// `HOST:PORT`.
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers each request by `answer`, each on a thread of its own; then the connection ends.
    pub fn start(answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, kept) = (Arc::new(answer), Arc::clone(&requests));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, kept) = (Arc::clone(&answer), Arc::clone(&kept));
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    if let Some(request) = read_request(&stream, &kept) {
                        answer(&request, &mut stream);
                    }
                });
            }
        });
        Self { address, requests }
    }

    /// A URL on it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// What has been asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn read_request(stream: &TcpStream, kept: &Mutex<Vec<Request>>) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let line = lines.next()?;
    let headers = lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase());
    let headers = headers.collect();
    let mut kept = kept.lock().unwrap();
    let request = Request { number: kept.len(), line, headers };
    kept.push(request.clone());
    Some(request)
}

/// Sends as much as the client takes.
pub fn send(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    let _ = stream.write_all(bytes.as_ref());
}

/// Sends a head: its status and headers.
pub fn head(stream: &mut TcpStream, lines: &[&str]) {
    send(stream, format!("HTTP/1.1 {}\r\n\r\n", lines.join("\r\n")));
}

/// Never sends anything more.
pub fn hang() {
    thread::sleep(Duration::from_secs(3600));
}

/// Serves `content` as a server should: ranges, `If-Range`, the entity tag `etag`. `limit`: after
/// so many bytes of the body the connection is cut.
pub fn file(request: &Request, stream: &mut TcpStream, content: &[u8], etag: &str, limit: usize) {
    let same = request.header("if-range").is_none_or(|wanted| wanted == etag);
    let from = if same { request.from() } else { 0 };
    let (tag, length) = (format!("ETag: {etag}"), content.len() - from);
    let length_line = format!("Content-Length: {length}");
    if from > 0 {
        let last = content.len() - 1;
        let range = format!("Content-Range: bytes {from}-{last}/{}", content.len());
        head(stream, &["206 Partial Content", &tag, &length_line, &range]);
    } else {
        head(stream, &["200 OK", &tag, &length_line]);
    }
    send(stream, &content[from..from + length.min(limit)]);
}
