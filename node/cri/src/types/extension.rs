//! Extensions of ours (`dhow.runtime.v1alpha1`): putting a wasm file into the image store without a registry, and
//! feeding a container's standard input; what pods may reach and be reached by; what namespaces leave on a node.

/// A piece of what is sent upwards; the first carries what it is for too: the reference of an image to be, or the
/// id of a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UploadChunk {
    #[prost(string, tag = "1")]
    pub target: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub data: bytes::Bytes,
    /// The sender could not read on: what came so far is not all. gRPC has no other way to say so upwards.
    #[prost(bool, tag = "3")]
    pub aborted: bool,
}

/// The image made of the file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImportImageResponse {
    /// The image's id.
    #[prost(string, tag = "1")]
    pub image_ref: String,
    /// The reference in its full form, as pods may name it.
    #[prost(string, tag = "2")]
    pub reference: String,
}

/// The input has been written.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SendInputResponse {}

/// What a sandbox's containers may reach and be reached by from now on. Without it all is open.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetNetworkPolicyRequest {
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    /// `network_policy::Rules` as JSON: whoever only carries them need not know them.
    #[prost(bytes = "vec", tag = "2")]
    pub rules: Vec<u8>,
}

/// The rules hold.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetNetworkPolicyResponse {
    /// The last [`UpdateServicesRequest::to`]; 0 when there was none.
    #[prost(uint64, tag = "1")]
    pub services_version: u64,
}

/// Where the names and addresses of Services lead, for all sandboxes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateServicesRequest {
    /// The version these are changes to; 0: all there is, in place of what was known.
    #[prost(uint64, tag = "1")]
    pub from: u64,
    #[prost(uint64, tag = "2")]
    pub to: u64,
    /// Those that are new or changed: a list of `network_policy::Service` as JSON.
    #[prost(bytes = "vec", tag = "3")]
    pub services: Vec<u8>,
    /// Those that are gone: a list of namespace and name as JSON.
    #[prost(bytes = "vec", tag = "4")]
    pub removed: Vec<u8>,
    /// Such as `cluster.local`.
    #[prost(string, tag = "5")]
    pub cluster_domain: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateServicesResponse {}

/// Namespaces that are gone.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ForgetNamespacesRequest {
    /// What they keep on this node is removed, but for one that has a sandbox here. May be empty.
    #[prost(string, repeated, tag = "1")]
    pub namespaces: Vec<String>,
}

/// What is left.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ForgetNamespacesResponse {
    /// Namespaces that keep something on this node, in order.
    #[prost(string, repeated, tag = "1")]
    pub namespaces: Vec<String>,
}
