//! The plugin on a node: with a kubelet that speaks the real API over Unix sockets, without privilege
//! and without Kubernetes.

mod kubelet;
mod offering;
mod program;
