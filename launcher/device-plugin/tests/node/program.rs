//! The program itself: flags, real devices where this machine has them, signals.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::kubelet::{Kubelet, Plugin};
use berth_device_plugin::api::HEALTHY;
use berth_device_plugin::device::{Kind, State, judge};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth-device-plugin"));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Each kind with what is to be expected of its list.
async fn check_lists(plugins: &mut [Plugin], devices: &Path) {
    for plugin in plugins {
        let name = plugin.request.resource_name.clone();
        let kind = Kind::ALL.into_iter().find(|kind| name.ends_with(kind.name())).unwrap();
        let list = plugin.watch().await.next().await;
        match judge(kind, &devices.join(kind.file())) {
            State::Absent => {
                eprintln!("skipped: this machine has no {}", kind.path().display());
                assert_eq!(list, (0, String::new()));
            }
            State::Usable | State::Untried => assert_eq!(list, (3, HEALTHY.into())),
            State::Unusable(_) => assert_eq!(list.0, 3),
        }
    }
}

#[tokio::test]
async fn it_offers_this_machines_devices_until_it_is_told_to_stop() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let sockets = tempfile::tempdir().unwrap();
        let devices = tempfile::tempdir().unwrap();
        fs::create_dir(devices.path().join("net")).unwrap();
        for kind in Kind::ALL {
            // One that leads nowhere is a device that is absent.
            symlink(kind.path(), devices.path().join(kind.file())).unwrap();
        }
        let mut kubelet = Kubelet::start(sockets.path());
        let child = program()
            .args(["--kvm=a.b/kvm", "--tun=a.b/tun", "--vhost-net=a.b/vhost-net", "--slots=3"])
            .arg("--kubelet")
            .arg(sockets.path())
            .env("PLUGIN_DEVICES", devices.path())
            .spawn()
            .unwrap();
        let mut plugins = kubelet.plugins(3).await;
        check_lists(&mut plugins, devices.path()).await;
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let waited = tokio::task::spawn_blocking(|| child.wait_with_output());
        let output =
            tokio::time::timeout(crate::kubelet::PATIENCE, waited).await.unwrap().unwrap().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("info: a.b/kvm: registered with the kubelet"), "{said}");
        let left: Vec<_> =
            fs::read_dir(sockets.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["kubelet.sock"], "{said}");
    }
}

#[test]
fn mistakes_are_one_sentence() {
    let output = program().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).starts_with("berth error: no device is named: "), "{}", said(&output));

    let output = program().args(["--kvm=a.b/c", "--kubelet=/nowhere"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert_eq!(said.lines().filter(|line| line.contains("error: ")).count(), 1, "{said}");
    assert!(
        said.contains("error: /nowhere, the kubelet's directory of sockets, cannot be read"),
        "{said}"
    );
}
