//! Extensions of ours (`dhow.runtime.v1alpha1`): putting a wasm file into the image store without a registry, and
//! feeding a container's standard input.

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
