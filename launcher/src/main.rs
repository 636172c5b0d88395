//! `berth`: runs one virtual machine per pod.

fn main() {}
