//! The plugin against a kubelet that speaks the real API over Unix sockets. Devices are files in a
//! directory, judged by what they hold; needs no privilege.

use std::fs;
use std::path::{Path, PathBuf};

use crate::kubelet::{Kubelet, Lists, Plugin};
use berth_device_plugin::api::{
    AllocateRequest, AllocateResponse, ContainerAllocateRequest, DevicePluginOptions, DeviceSpec,
    HEALTHY, PreStartContainerRequest, PreferredAllocationRequest, PreferredAllocationResponse,
    UNHEALTHY, VERSION, device_plugin,
};
use berth_device_plugin::device::{Kind, State};
use berth_device_plugin::plugin::{self, Settings};
use berth_device_plugin::resource::Resource;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

const SLOTS: u32 = 5;

/// A node: the kubelet's directory, and a `/dev`.
struct Node {
    kubelet: TempDir,
    devices: TempDir,
}

impl Node {
    fn new() -> Self {
        Self { kubelet: tempfile::tempdir().unwrap(), devices: tempfile::tempdir().unwrap() }
    }

    fn start_kubelet(&self) -> Kubelet {
        Kubelet::start(self.kubelet.path())
    }

    fn device(&self, kind: Kind) -> PathBuf {
        self.devices.path().join(kind.file())
    }

    /// Makes a device appear whole, as devtmpfs does.
    fn add(&self, kind: Kind, text: &str) {
        let path = self.device(kind);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let aside = self.devices.path().join("new");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, path).unwrap();
    }

    fn start_plugin(&self, kinds: &[Kind]) -> Running {
        let resource =
            |&kind: &Kind| Resource { name: format!("x.org/{}", kind.name()), kind, slots: SLOTS };
        let settings = Settings {
            kubelet: self.kubelet.path().to_owned(),
            devices: self.devices.path().to_owned(),
            resources: kinds.iter().map(resource).collect(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            plugin::run(&settings, judge, stopped).await.unwrap();
        });
        Running { stop, task }
    }

    /// What is in the kubelet's directory.
    fn sockets(&self) -> Vec<String> {
        let entries = fs::read_dir(self.kubelet.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A device is what its file says.
fn judge(_: Kind, path: &Path) -> State {
    match fs::read_to_string(path) {
        Ok(text) if text == "works" => State::Usable,
        Ok(text) => State::Unusable(text),
        Err(_) => State::Absent,
    }
}

struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

/// The next lists until the one that is wanted: what happens in two steps may be told in one or two.
async fn until(lists: &mut Lists, wanted: (usize, &str)) {
    loop {
        let (count, health) = lists.next().await;
        if (count, health.as_str()) == wanted {
            return;
        }
    }
}

fn allocation(containers: &[&[&str]]) -> AllocateRequest {
    let container = |ids: &&[&str]| ContainerAllocateRequest {
        ids: ids.iter().map(|&id| id.to_owned()).collect(),
    };
    AllocateRequest { container_requests: containers.iter().map(container).collect() }
}

async fn allocate(plugin: &mut Plugin, containers: &[&[&str]]) -> Result<AllocateResponse, Status> {
    plugin.ask(device_plugin::ALLOCATE, allocation(containers)).await
}

#[tokio::test]
async fn each_device_is_registered_and_given_out() {
    let node = Node::new();
    for kind in Kind::ALL {
        node.add(kind, "works");
    }
    let mut kubelet = node.start_kubelet();
    let running = node.start_plugin(&Kind::ALL);
    let mut plugins = kubelet.plugins(3).await;
    for (plugin, kind) in plugins.iter_mut().zip(Kind::ALL) {
        let none = DevicePluginOptions::default();
        assert_eq!(plugin.request.version, VERSION);
        assert_eq!(plugin.request.resource_name, format!("x.org/{}", kind.name()));
        assert_eq!(plugin.request.options, Some(none));
        let options: Result<DevicePluginOptions, _> = plugin.ask(device_plugin::OPTIONS, ()).await;
        assert_eq!(options.unwrap(), none);

        let mut lists = plugin.watch().await;
        assert_eq!(lists.next().await, (SLOTS as usize, HEALTHY.into()));

        let slot = format!("{}-4", kind.name());
        let answer = allocate(plugin, &[&[slot.as_str()]]).await.unwrap();
        let path = kind.path().display().to_string();
        let [container] = answer.container_responses.as_slice() else { panic!("{answer:?}") };
        let permissions = "rw".to_owned();
        let spec = DeviceSpec { container_path: path.clone(), host_path: path, permissions };
        assert_eq!(container.devices, [spec]);

        let refused = allocate(plugin, &[&["gpu-0"]]).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert!(refused.message().contains("\"gpu-0\""), "{refused}");

        let question = PreferredAllocationRequest::default();
        let answer: Result<PreferredAllocationResponse, _> =
            plugin.ask(device_plugin::PREFERRED, question).await;
        assert_eq!(answer.unwrap(), PreferredAllocationResponse::default());
        let question = PreStartContainerRequest { ids: vec![slot] };
        let () = plugin.ask(device_plugin::PRE_START, question).await.unwrap();
        let unknown = plugin.ask::<(), ()>("/v1beta1.DevicePlugin/Reset", ()).await;
        assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
    }
    running.stop().await;
}

#[tokio::test]
async fn devices_come_break_mend_and_go() {
    let node = Node::new();
    let mut kubelet = node.start_kubelet();
    let running = node.start_plugin(&[Kind::Kvm, Kind::Tun]);
    let mut plugins = kubelet.plugins(2).await;
    let [kvm, tun] = plugins.as_mut_slice() else { panic!("two plugins") };
    let slots = SLOTS as usize;
    let mut lists = kvm.watch().await;
    assert_eq!(lists.next().await, (0, String::new()));
    let refused = allocate(kvm, &[&["kvm-0"]]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.message(), "x.org/kvm cannot be given out: /dev/kvm is absent");

    node.add(Kind::Kvm, "works");
    until(&mut lists, (slots, HEALTHY)).await;
    allocate(kvm, &[&["kvm-0"]]).await.unwrap();

    node.add(Kind::Kvm, "is broken");
    until(&mut lists, (slots, UNHEALTHY)).await;
    let refused = allocate(kvm, &[&["kvm-0"]]).await.unwrap_err();
    assert_eq!(refused.message(), "x.org/kvm cannot be given out: /dev/kvm is broken");

    node.add(Kind::Kvm, "works");
    until(&mut lists, (slots, HEALTHY)).await;
    fs::remove_file(node.device(Kind::Kvm)).unwrap();
    until(&mut lists, (0, "")).await;

    // Its directory comes with it, and goes with it.
    let mut lists = tun.watch().await;
    assert_eq!(lists.next().await, (0, String::new()));
    for _ in 0..2 {
        node.add(Kind::Tun, "works");
        until(&mut lists, (slots, HEALTHY)).await;
        fs::remove_dir_all(node.devices.path().join("net")).unwrap();
        until(&mut lists, (0, "")).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_kubelet_that_restarts_finds_the_plugin_again() {
    let node = Node::new();
    node.add(Kind::Kvm, "works");
    // The plugin may come first.
    let running = node.start_plugin(&[Kind::Kvm]);
    let mut stale = Vec::new();
    for _ in 0..3 {
        let mut kubelet = node.start_kubelet();
        let mut plugins = kubelet.plugins(1).await;
        let mut lists = plugins[0].watch().await;
        assert_eq!(lists.next().await, (SLOTS as usize, HEALTHY.into()));
        assert_eq!(node.sockets(), ["berth-kvm.sock", "kubelet.sock"]);
        // Some connections outlive their kubelet, and must not hide that it is gone.
        stale.push((plugins, lists));
    }
    running.stop().await;
    assert_eq!(node.sockets(), ["kubelet.sock"]);
}

#[tokio::test]
async fn a_kubelet_that_lets_go_is_asked_again() {
    let node = Node::new();
    let mut kubelet = node.start_kubelet();
    let running = node.start_plugin(&[Kind::Kvm]);
    for _ in 0..3 {
        let mut plugins = kubelet.plugins(1).await;
        let mut lists = plugins[0].watch().await;
        assert_eq!(lists.next().await, (0, String::new()));
    }
    running.stop().await;
}

#[tokio::test]
async fn a_kubelet_that_refuses_is_asked_again() {
    let node = Node::new();
    let running = node.start_plugin(&[Kind::VhostNet]);
    let refusal = Status::invalid_argument("not today");
    let mut kubelet = Kubelet::start_that(node.kubelet.path(), Some(refusal));
    for _ in 0..3 {
        assert_eq!(kubelet.registration().await.resource_name, "x.org/vhost-net");
    }
    drop(kubelet);
    let mut kubelet = node.start_kubelet();
    kubelet.plugins(1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_socket_that_is_lost_is_made_anew() {
    let node = Node::new();
    let mut kubelet = node.start_kubelet();
    let running = node.start_plugin(&[Kind::Kvm]);
    let mut plugins = kubelet.plugins(1).await;
    let _lists = plugins[0].watch().await;
    fs::remove_file(node.kubelet.path().join("berth-kvm.sock")).unwrap();
    kubelet.plugins(1).await;
    running.stop().await;
}

#[tokio::test]
async fn the_newer_of_two_plugins_stays_until_it_ends() {
    let node = Node::new();
    let mut kubelet = node.start_kubelet();
    let older = node.start_plugin(&[Kind::Kvm]);
    let mut first = kubelet.plugins(1).await;
    let lists = first[0].watch().await;
    let newer = node.start_plugin(&[Kind::Kvm]);
    let mut second = kubelet.plugins(1).await;
    let mut newer_lists = second[0].watch().await;
    assert_eq!(newer_lists.next().await, (0, String::new()));
    // The older leaves the newer's socket alone, also when it ends.
    older.stop().await;
    lists.end().await;
    assert_eq!(node.sockets(), ["berth-kvm.sock", "kubelet.sock"]);

    // And steps in when the newer is gone.
    let third = node.start_plugin(&[Kind::Kvm]);
    kubelet.plugins(1).await;
    third.stop().await;
    kubelet.plugins(1).await;
    newer.stop().await;
    assert_eq!(node.sockets(), ["kubelet.sock"]);
}
