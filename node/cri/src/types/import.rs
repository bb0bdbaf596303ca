//! An extension of ours (`dhow.runtime.v1alpha1`): putting a wasm file into the image store without a registry.

/// A piece of the file; the first carries the reference too.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImportImageChunk {
    #[prost(string, tag = "1")]
    pub reference: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub data: bytes::Bytes,
    /// The sender could not read on: what came so far is not the file. gRPC has no other way to say so upwards.
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
