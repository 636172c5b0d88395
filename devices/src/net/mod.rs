//! What stands behind virtio-net.
