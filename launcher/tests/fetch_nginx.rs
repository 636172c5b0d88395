//! Fetching from nginx: a server that nobody here has written, with TLS and a certificate authority
//! of our own. Skipped aloud where nginx or openssl is missing.

#[path = "fetch/place.rs"]
mod place;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use place::{Place, image, outcome, sha256};

/// nginx, and what it serves.
struct Nginx {
    dir: tempfile::TempDir,
    process: Child,
    /// Of http, https with RSA and TLS 1.2, https with ECDSA and TLS 1.3.
    ports: [u16; 3],
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its master passes SIGTERM on to its workers.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

fn openssl(dir: &Path, args: &str) {
    let mut command = Command::new("openssl");
    let output = command.args(args.split('|')).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and certificates by it for 127.0.0.1 only.
fn certificates(dir: &Path) {
    openssl(
        dir,
        "req|-x509|-newkey|rsa:2048|-nodes|-keyout|ca.key|-out|ca.pem|-days|2|-subj|/CN=tests|\
         -addext|basicConstraints=critical,CA:TRUE|-addext|keyUsage=keyCertSign",
    );
    fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for (name, key) in [("rsa", "rsa:2048"), ("ec", "ec|-pkeyopt|ec_paramgen_curve:P-256")] {
        openssl(
            dir,
            &format!(
                "req|-newkey|{key}|-nodes|-keyout|{name}.key|-out|{name}.csr|-subj|/CN=127.0.0.1"
            ),
        );
        openssl(
            dir,
            &format!(
                "x509|-req|-in|{name}.csr|-CA|ca.pem|-CAkey|ca.key|-CAcreateserial|\
                 -extfile|san|-days|2|-out|{name}.pem"
            ),
        );
    }
}

fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

impl Nginx {
    /// `None`, aloud, where it cannot be had.
    fn start() -> Option<Self> {
        let program = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"];
        let program = program.into_iter().find(|path| Path::new(path).exists());
        let there = Command::new("openssl").arg("version").stdout(Stdio::null()).status();
        let (Some(program), Ok(_)) = (program, there) else {
            eprintln!("skipped: nginx or openssl is not installed");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        fs::create_dir(dir.path().join("www")).unwrap();
        fs::write(dir.path().join("users"), "me:{PLAIN}p@ss\n").unwrap();
        let ports = free_ports();
        let config = dir.path().join("nginx.conf");
        fs::write(&config, configuration(dir.path(), ports)).unwrap();
        let process = Command::new(program)
            .arg("-p")
            .arg(dir.path())
            .arg("-c")
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self { dir, process, ports };
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", ports[2])).is_err() {
            let errors = fs::read_to_string(nginx.path("error.log")).unwrap_or_default();
            assert!(Instant::now() < until, "nginx does not start: {errors}");
            sleep(Duration::from_millis(20));
        }
        Some(nginx)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ca(&self) -> String {
        self.path("ca.pem").display().to_string()
    }

    /// Puts a file there as a whole.
    fn serve(&self, name: &str, content: &[u8]) {
        fs::write(self.path("new"), content).unwrap();
        fs::rename(self.path("new"), self.path("www").join(name)).unwrap();
    }

    fn url(&self, port: usize, path: &str) -> String {
        let scheme = if port == 0 { "http" } else { "https" };
        format!("{scheme}://127.0.0.1:{}/{path}", self.ports[port])
    }

    /// Status and range of each request so far.
    fn log(&self) -> Vec<String> {
        // It writes a line when the connection is done with.
        sleep(Duration::from_millis(200));
        let text = fs::read_to_string(self.path("access.log")).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

fn configuration(dir: &Path, ports: [u16; 3]) -> String {
    let [plain, rsa, ec] = ports;
    let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/tmp;\n", dir.display()))
        .concat();
    format!(
        "{user} daemon off; pid nginx.pid; error_log error.log; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    {temporary}
    log_format short '$status $http_range';
    access_log access.log short;
    root www;
    gzip on; gzip_types *; gzip_min_length 1;
    server {{
        listen 127.0.0.1:{plain};
        location /slow/ {{ alias www/; limit_rate 400k; }}
        location /private/ {{
            alias www/; auth_basic here; auth_basic_user_file users;
        }}
        location /up {{ return 301 https://127.0.0.1:{rsa}/disk.img; }}
    }}
    server {{
        listen 127.0.0.1:{rsa} ssl;
        ssl_protocols TLSv1.2; ssl_certificate rsa.pem; ssl_certificate_key rsa.key;
        location /down {{ return 302 http://127.0.0.1:{plain}/disk.img; }}
    }}
    server {{
        listen 127.0.0.1:{ec} ssl;
        ssl_protocols TLSv1.3; ssl_certificate ec.pem; ssl_certificate_key ec.key;
    }}
}}
"
    )
}

#[test]
fn tls_with_an_authority_of_our_own() {
    let Some(nginx) = Nginx::start() else { return };
    let content = image(3_000_001, 1);
    nginx.serve("disk.img", &content);
    let list = format!("{}  disk.img\n", sha256(&content).replace("sha256:", ""));
    nginx.serve("SHA256SUMS", list.as_bytes());
    for port in [1, 2] {
        let (place, ca) = (Place::new(), nginx.ca());
        let (url, list) = (nginx.url(port, "disk.img"), nginx.url(port, "SHA256SUMS"));
        place.pull(&[&url, "--image-ca", &ca, "--image-sha256", &list]).unwrap();
        place.has("disk.img", &content);
    }
    let certificates = nginx.path("certificates");
    fs::create_dir(&certificates).unwrap();
    fs::copy(nginx.path("ca.pem"), certificates.join("ca.pem")).unwrap();
    for (name, value) in [("SSL_CERT_FILE", nginx.path("ca.pem")), ("SSL_CERT_DIR", certificates)] {
        let place = Place::new();
        let mut command = place.command(&[&nginx.url(2, "disk.img")]);
        outcome(&command.env(name, value).output().unwrap()).unwrap();
        place.has("disk.img", &content);
    }
    // Redirected to https, and by https to http.
    let (place, ca) = (Place::new(), nginx.ca());
    place.pull(&[&nginx.url(0, "up"), "--image-name", "disk.img", "--image-ca", &ca]).unwrap();
    place.has("disk.img", &content);
    let place = Place::new();
    let error = place.pull(&[&nginx.url(1, "down"), "--image-ca", &ca]).unwrap_err();
    assert!(error.contains("redirects from https to http://"), "{error}");
    place.has_nothing();
}

#[test]
fn servers_that_are_not_trusted() {
    let Some(nginx) = Nginx::start() else { return };
    nginx.serve("disk.img", &image(100_000, 2));
    openssl(
        nginx.dir.path(),
        "req|-x509|-newkey|rsa:2048|-nodes|-keyout|x.key|-out|other.pem|-days|2|-subj|/CN=other",
    );
    let (ca, other) = (nginx.ca(), nginx.path("other.pem").display().to_string());
    let elsewhere = nginx.url(1, "disk.img").replace("127.0.0.1", "localhost");
    for (url, ca, part) in [
        (nginx.url(1, "disk.img"), other, "certificate is not trusted"),
        (elsewhere, ca.clone(), "certificate is not trusted"),
        (nginx.url(1, "disk.img"), nginx.path("ca.key").display().to_string(), "no certificate in"),
    ] {
        let place = Place::new();
        let error = place.pull(&[&url, "--image-ca", &ca]).unwrap_err();
        assert!(error.contains(part) && !error.contains("next try"), "{error}");
        place.has_nothing();
    }
}

#[test]
fn passwords() {
    let Some(nginx) = Nginx::start() else { return };
    let content = image(100_000, 3);
    nginx.serve("disk.img", &content);
    let (place, url) = (Place::new(), nginx.url(0, "private/disk.img"));
    assert!(place.pull(&[&url]).unwrap_err().contains("401 Unauthorized"));
    let said = place.pull(&[&url.replace("http://", "http://me:p%40ss@")]).unwrap();
    assert!(!said.contains("p%40ss") && !said.contains("p@ss"), "{said}");
    place.has("disk.img", &content);
}

#[test]
fn killed_and_gone_on_with_or_changed_in_between() {
    let Some(nginx) = Nginx::start() else { return };
    let (old, new) = (image(1_500_000, 4), image(1_500_000, 5));
    let url = nginx.url(0, "slow/disk.img");
    for change in [false, true] {
        let place = Place::new();
        nginx.serve("disk.img", &old);
        let before = nginx.log().len();
        let child = place.start(&[&url]);
        let part = place.path(".disk.img.part");
        while fs::metadata(&part).map_or(0, |meta| meta.len()) < 300_000 {
            sleep(Duration::from_millis(20));
        }
        // Not killed: what is there is made durable.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        child.wait_with_output().unwrap();
        if change {
            // Its time is part of nginx's tag, in seconds.
            sleep(Duration::from_millis(1100));
            nginx.serve("disk.img", &new);
        }
        place.pull(&[&url]).unwrap();
        place.has("disk.img", if change { &new } else { &old });
        let log = nginx.log();
        let last = log.last().unwrap();
        assert!(log.len() == before + 2 && last.contains("bytes="), "{log:?}");
        assert!(last.starts_with(if change { "200" } else { "206" }), "{last}");
    }
}

#[test]
fn ten_at_once_fetch_once() {
    let Some(nginx) = Nginx::start() else { return };
    let content = image(1_000_000, 6);
    nginx.serve("disk.img", &content);
    let (place, url) = (Place::new(), nginx.url(0, "slow/disk.img"));
    let mut all: Vec<_> = (0..10).map(|_| place.start(&[&url])).collect();
    // The one that fetches may die: another goes on.
    sleep(Duration::from_millis(700));
    all[0].kill().unwrap();
    all.remove(0).wait().unwrap();
    for child in all {
        outcome(&child.wait_with_output().unwrap()).unwrap();
    }
    assert!(fs::read(place.path("disk.img")).unwrap() == content);
    assert!(nginx.log().len() <= 2, "{:?}", nginx.log());
}
