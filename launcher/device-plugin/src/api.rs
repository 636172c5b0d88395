//! Messages of Kubernetes' device plugin API v1beta1, written by hand from its `api.proto`, so that
//! no build needs a compiler for such files.
//!
//! Left out are fields that are never sent and never read: topology, environment, mounts,
//! annotations, CDI. A decoder skips what it does not know. `Empty` and `PreStartContainerResponse`
//! are `()`, which is the message without fields.

use prost::Message;

/// The version of the API, as a registration names it.
pub const VERSION: &str = "v1beta1";
/// The kubelet's socket in its directory.
pub const KUBELET_SOCKET: &str = "kubelet.sock";
/// A device that may be given out.
pub const HEALTHY: &str = "Healthy";
/// A device that is there, and must not be given out.
pub const UNHEALTHY: &str = "Unhealthy";

/// The service of the kubelet.
pub mod registration {
    /// `RegisterRequest` to `Empty`.
    pub const REGISTER: &str = "/v1beta1.Registration/Register";
}

/// The service of a plugin.
pub mod device_plugin {
    /// `Empty` to `DevicePluginOptions`.
    pub const OPTIONS: &str = "/v1beta1.DevicePlugin/GetDevicePluginOptions";
    /// `Empty` to a stream of `ListAndWatchResponse`.
    pub const LIST_AND_WATCH: &str = "/v1beta1.DevicePlugin/ListAndWatch";
    /// `PreferredAllocationRequest` to `PreferredAllocationResponse`.
    pub const PREFERRED: &str = "/v1beta1.DevicePlugin/GetPreferredAllocation";
    /// `AllocateRequest` to `AllocateResponse`.
    pub const ALLOCATE: &str = "/v1beta1.DevicePlugin/Allocate";
    /// `PreStartContainerRequest` to `PreStartContainerResponse`.
    pub const PRE_START: &str = "/v1beta1.DevicePlugin/PreStartContainer";
}

/// Which calls the kubelet is to make beyond those that it always makes.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DevicePluginOptions {
    /// `PreStartContainer` before each start of a container.
    #[prost(bool, tag = "1")]
    pub pre_start_required: bool,
    /// `GetPreferredAllocation` before each allocation.
    #[prost(bool, tag = "2")]
    pub get_preferred_allocation_available: bool,
}

/// A plugin asks the kubelet to take notice of a resource.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RegisterRequest {
    /// [`VERSION`].
    #[prost(string, tag = "1")]
    pub version: String,
    /// The plugin's socket: a name in the kubelet's directory.
    #[prost(string, tag = "2")]
    pub endpoint: String,
    /// What pods ask for.
    #[prost(string, tag = "3")]
    pub resource_name: String,
    /// The same as `GetDevicePluginOptions` answers.
    #[prost(message, optional, tag = "4")]
    pub options: Option<DevicePluginOptions>,
}

/// All that a plugin has of a resource; sent again whenever it changes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListAndWatchResponse {
    /// In no order.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<Device>,
}

/// One unit of a resource.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Device {
    /// Unique in the resource; at most 63 characters.
    #[prost(string, tag = "1")]
    pub id: String,
    /// [`HEALTHY`] or [`UNHEALTHY`].
    #[prost(string, tag = "2")]
    pub health: String,
}

/// Which of the free units should containers have?
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PreferredAllocationRequest {
    /// One for each container.
    #[prost(message, repeated, tag = "1")]
    pub container_requests: Vec<ContainerPreferredAllocationRequest>,
}

/// Which should this container have?
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ContainerPreferredAllocationRequest {
    /// The choice.
    #[prost(string, repeated, tag = "1")]
    pub available_ids: Vec<String>,
    /// Those that must be in the answer.
    #[prost(string, repeated, tag = "2")]
    pub must_include_ids: Vec<String>,
    /// How many must be in the answer.
    #[prost(int32, tag = "3")]
    pub allocation_size: i32,
}

/// The answer to [`PreferredAllocationRequest`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PreferredAllocationResponse {
    /// One for each container, in the order of the request.
    #[prost(message, repeated, tag = "1")]
    pub container_responses: Vec<ContainerPreferredAllocationResponse>,
}

/// What a container should have.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ContainerPreferredAllocationResponse {
    /// Identifiers out of the request.
    #[prost(string, repeated, tag = "1")]
    pub ids: Vec<String>,
}

/// What is to be given to containers that have been allotted units?
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AllocateRequest {
    /// One for each container.
    #[prost(message, repeated, tag = "1")]
    pub container_requests: Vec<ContainerAllocateRequest>,
}

/// The units of a container.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ContainerAllocateRequest {
    /// Identifiers out of the list.
    #[prost(string, repeated, tag = "1")]
    pub ids: Vec<String>,
}

/// The answer to [`AllocateRequest`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AllocateResponse {
    /// One for each container, in the order of the request.
    #[prost(message, repeated, tag = "1")]
    pub container_responses: Vec<ContainerAllocateResponse>,
}

/// What a container is to be given.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ContainerAllocateResponse {
    /// Device nodes.
    #[prost(message, repeated, tag = "3")]
    pub devices: Vec<DeviceSpec>,
}

/// A device node of the host for a container.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeviceSpec {
    /// Its path in the container.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Its path on the host.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Out of `r` (read), `w` (write) and `m` (make the node).
    #[prost(string, tag = "3")]
    pub permissions: String,
}

/// A container is about to start.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PreStartContainerRequest {
    /// Its units.
    #[prost(string, repeated, tag = "1")]
    pub ids: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as `protoc` makes them of the API's own file: field numbers are what the two ends have
    /// in common, and nothing else would notice a wrong one.
    #[test]
    fn messages_have_the_numbers_of_the_api() {
        let request = RegisterRequest {
            version: VERSION.into(),
            endpoint: "a.sock".into(),
            resource_name: "x.org/a".into(),
            options: Some(DevicePluginOptions {
                pre_start_required: true,
                get_preferred_allocation_available: true,
            }),
        };
        let bytes = b"\x0a\x07v1beta1\x12\x06a.sock\x1a\x07x.org/a\x22\x04\x08\x01\x10\x01";
        assert_eq!(request.encode_to_vec(), bytes);

        let list = ListAndWatchResponse {
            devices: vec![Device { id: "a".into(), health: HEALTHY.into() }],
        };
        assert_eq!(list.encode_to_vec(), b"\x0a\x0c\x0a\x01a\x12\x07Healthy");

        let device = DeviceSpec {
            container_path: "/c".into(),
            host_path: "/h".into(),
            permissions: "rw".into(),
        };
        let answer = AllocateResponse {
            container_responses: vec![ContainerAllocateResponse { devices: vec![device] }],
        };
        let bytes = b"\x0a\x0e\x1a\x0c\x0a\x02/c\x12\x02/h\x1a\x02rw";
        assert_eq!(answer.encode_to_vec(), bytes);

        let bytes: &[u8] = b"\x0a\x06\x0a\x01a\x0a\x01b";
        let request = AllocateRequest::decode(bytes).unwrap();
        assert_eq!(request.container_requests[0].ids, ["a", "b"]);

        let bytes: &[u8] = b"\x0a\x0b\x0a\x01a\x0a\x01b\x12\x01b\x18\x02";
        let request = PreferredAllocationRequest::decode(bytes).unwrap();
        let container = &request.container_requests[0];
        assert_eq!(container.available_ids, ["a", "b"]);
        assert_eq!(container.must_include_ids, ["b"]);
        assert_eq!(container.allocation_size, 2);
    }
}
