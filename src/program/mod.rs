//! ML Programs: typed operations whose weights lie in a file beside the model, and the forms in which they are compressed.

mod blobs;
mod dtype;
mod value;

pub use blobs::BlobError;
pub use dtype::Dtype;
pub use value::ValueError;
