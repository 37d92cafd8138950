//! One weight as a value: what is known of it before it is read, its values, how it is stored, and what was lost.

mod blocks;
mod buffers;
mod codes;
pub(crate) mod distortion;
mod payload;
mod view;

pub use blocks::Blocks;
pub(crate) use buffers::Buffers;
pub use codes::Codes;
pub use payload::Payload;
pub(crate) use payload::stored_codes;
pub use view::{WeightSpec, WeightView};
