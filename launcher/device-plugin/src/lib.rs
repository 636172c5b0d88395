//! `berth-device-plugin`: offers a node's `/dev/kvm`, `/dev/net/tun` and `/dev/vhost-net` to pods, by
//! Kubernetes' device plugin API v1beta1.
//!
//! The kubelet has a directory of sockets. There this program asks the kubelet, over `kubelet.sock`,
//! to take notice of a resource (*registers* it) and serves a socket for each, over which the kubelet
//! hears how many *slots* a device has, and asks what a container with a slot is to be given. A device
//! is shared: its slots are names without anything behind them.
//!
//! [`plugin`] tells the story. [`lookout`] wakes it when a file of interest comes or goes; [`device`]
//! judges devices; [`offer`] keeps one resource registered, by [`registration`] and a [`service`]
//! that answers out of a [`resource`]. [`api`] has the messages.
//!
//! One thread does it all, but for reading events: there is little to do, and nothing that takes long.
//! It is the one program of Berth with an async runtime, because the gRPC library has no other form.

pub mod api;
pub mod device;
pub mod file;
pub mod lookout;
pub mod offer;
pub mod plugin;
pub mod registration;
pub mod resource;
pub mod service;
