//! The program as a client of a control socket, and as one that would have the socket: against a
//! server of the test's, since a machine needs KVM.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("NET", "none")
        .env("NO_VNC", "1")
        .env("HOME", dir)
        .env("HOSTNAME", "no-such-machine")
        .env("XDG_RUNTIME_DIR", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn berth(dir: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(dir, args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Answers one request with `answer`, and gives back the request's head.
fn server(path: &Path, answer: &'static str) -> JoinHandle<(String, UnixStream)> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        (String::from_utf8(head).unwrap(), stream)
    })
}

const STATUS: &str = concat!(
    "HTTP/1.1 200 OK\r\nContent-Length: 190\r\n\r\n",
    r#"{"name":"web-1","state":"running","version":"0","uptime_s":61,"cpus":2,"memory_bytes":1048576,"#,
    r#""disks":[],"nics":[],"ready":false,"readiness":"lease: not yet","vnc_viewers":null,"consoles":0}"#,
);

#[test]
fn without_a_machine_each_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["status"][..],
        &["console"],
        &["screenshot", "x.png"],
        &["power", "off"],
        &["health"],
        &["health", "--ready"],
    ] {
        let named = [args, &["--name", "pet"]].concat();
        let (code, out, said) = berth(dir.path(), &named);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{args:?}: {said}");
        assert!(said.starts_with("berth error: no machine named pet runs here"), "{said}");
        let at = [args, &["--control", "none.sock"]].concat();
        let (code, _, said) = berth(dir.path(), &at);
        assert_eq!(code, Some(1), "{args:?}: {said}");
        assert_eq!(
            said,
            "berth error: no machine runs with the control socket none.sock; start one with berth \
             run\n"
        );
    }
    assert!(!dir.path().join("x.png").exists());
    let (code, _, said) = berth(dir.path(), &["power", "knob"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("[possible values: button, off, reset]"), "{said}");
}

#[test]
fn status_finds_its_machine_and_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("berth");
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
    let asked = server(&own.join("web-1.sock"), STATUS);
    let (code, out, said) = berth(dir.path(), &["status", "--name", "web-1"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(out.starts_with("name       web-1\nstate      running, up for 1 min 1 s\n"), "{out}");
    let (head, _) = asked.join().unwrap();
    assert!(head.starts_with("GET /status HTTP/1.1\r\nHost: localhost\r\n"), "{head}");

    fs::remove_file(own.join("web-1.sock")).unwrap();
    let asked = server(&own.join("web-1.sock"), STATUS);
    let (code, out, _) = berth(dir.path(), &["status", "-o", "json", "--name", "web-1"]);
    assert_eq!((code, out.trim_end().len()), (Some(0), 190));
    asked.join().unwrap();
}

#[test]
fn health_is_an_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    for (answer, code, out, said) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nlease\n", 0, "lease\n", ""),
        (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\nno lease\n",
            1,
            "",
            "berth error: no lease\n",
        ),
    ] {
        let asked = server(&path, answer);
        let want = (Some(code), out.to_owned(), said.to_owned());
        assert_eq!(berth(dir.path(), &["health", "--ready", "--control", "a.sock"]), want);
        assert!(asked.join().unwrap().0.starts_with("GET /readyz "));
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn power_and_screenshot() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let asked = server(&path, "HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\ndone\n");
    let (code, out, said) = berth(dir.path(), &["power", "reset", "--control", "a.sock"]);
    assert_eq!((code, out.as_str(), said.as_str()), (Some(0), "", ""));
    let (head, mut stream) = asked.join().unwrap();
    let mut body = String::new();
    stream.read_to_string(&mut body).unwrap();
    assert!(head.starts_with("POST /power ") && head.contains("Content-Length: 5\r\n"), "{head}");
    assert_eq!(body, "reset");
    fs::remove_file(&path).unwrap();

    let asked = server(
        &path,
        "HTTP/1.1 404 Not Found\r\nContent-Length: 28\r\n\r\nthis machine has no screen\r\n",
    );
    let (code, _, said) = berth(dir.path(), &["screenshot", "x.png", "--control", "a.sock"]);
    assert_eq!((code, said.as_str()), (Some(1), "berth error: this machine has no screen\n"));
    assert!(!dir.path().join("x.png").exists());
    asked.join().unwrap();
    fs::remove_file(&path).unwrap();

    let asked = server(&path, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nPNG");
    let (code, _, said) = berth(dir.path(), &["screenshot", "x.png", "--control", "a.sock"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(fs::read(dir.path().join("x.png")).unwrap(), b"PNG");
    asked.join().unwrap();
}

const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: berth-console\r\nConnection: Upgrade\r\n\r\npast\r\n";

fn console(dir: &Path) -> (Child, UnixStream) {
    let asked = server(&dir.join("a.sock"), UPGRADED);
    let mut command = command(dir, &["console", "--control", "a.sock"]);
    let child = command.stdin(Stdio::piped()).spawn().unwrap();
    let (head, stream) = asked.join().unwrap();
    assert!(head.contains("\r\nUpgrade: berth-console\r\n"), "{head}");
    (child, stream)
}

#[test]
fn a_console_carries_both_ways_until_the_machine_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, mut guest) = console(dir.path());
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "past\r\n");
    guest.write_all(b"login: \n").unwrap();
    line.clear();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "login: \n");
    // No terminal, so no escape.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"root\r\x1dq").unwrap();
    // Its end is not the console's.
    drop(stdin);
    let mut typed = [0; 7];
    guest.read_exact(&mut typed).unwrap();
    assert_eq!(&typed, b"root\r\x1dq");
    guest.write_all(b"bye\n").unwrap();
    drop(guest);
    line.clear();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "bye\n");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_console_leaves_on_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, mut guest) = console(dir.path());
    let mut out = child.stdout.take().unwrap();
    let mut past = [0; 6];
    // It has its signals by then.
    out.read_exact(&mut past).unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(guest.read(&mut past).unwrap(), 0);
}

#[test]
fn run_refuses_a_control_socket_that_is_in_use_and_leaves_none_behind() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("base"), [0; 4096]).unwrap();
    let path = dir.path().join("a.sock");
    let run = |control: &str| {
        berth(
            dir.path(),
            &[
                "run",
                "base",
                "--name",
                "pet",
                "--image-dir",
                "i",
                "--disk",
                "no.qcow2",
                "--control",
                control,
            ],
        )
    };
    fs::write(dir.path().join("no.qcow2"), [0; 4096]).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    let (code, _, said) = run("a.sock");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("the control socket a.sock is in use: a machine of this name runs"),
        "{said}"
    );
    assert!(!dir.path().join("i").exists(), "refused before anything is made");
    // Left by one that was killed: replaced, and gone with this one, which ends for another reason.
    drop(other);
    let (code, _, said) = run("a.sock");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no.qcow2: not a qcow2 image"), "{said}");
    assert!(!path.exists());
    let (code, _, said) = run("base");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("base is there, and is no socket"), "{said}");
    let (code, _, said) = run("");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--control: `` names nothing"), "{said}");
}
