//! weight.bin: MIL blob storage, version 2.
//!
//! Little-endian. A header of 64 bytes (number of blobs, version), then for each blob 64 bytes of metadata (sentinel, type,
//! size, offset, unused bits) and its data, everything on multiples of 64, gaps filled with zeros. A value in the program
//! names the offset of the metadata. Elements below a byte are packed as [`kernels::pack_lsb`](crate::kernels::pack_lsb)
//! says.
//!
//! Reading trusts nothing: every length is held against the file's before a byte is taken. Reserved bytes are ignored,
//! because coremltools before 8 left garbage in them; they are written as zeros.

use bytes::Bytes;

use crate::error::BlobError;
use crate::format::dtype::Dtype;

/// Everything lies on multiples of this.
pub(crate) const ALIGNMENT: u64 = 64;

/// Bytes of the header, and of each blob's metadata.
const HEADER: usize = 64;

const VERSION: u32 = 2;
const SENTINEL: u32 = 0xDEAD_BEEF;

/// A weight file whose header is in order.
#[derive(Clone, Debug)]
pub(crate) struct BlobFile {
    name: String,
    bytes: Bytes,
}

impl BlobFile {
    /// A file, under the name that programs give it.
    pub(crate) fn new(name: &str, bytes: Bytes) -> Result<Self, BlobError> {
        if bytes.len() < HEADER || u32_at(&bytes, 4) != VERSION {
            return Err(BlobError::Header { file_name: name.to_owned() });
        }
        Ok(Self { name: name.to_owned(), bytes })
    }

    /// The data of a blob of `count` elements, shared with the file.
    pub(crate) fn blob(&self, offset: u64, dtype: Dtype, count: usize) -> Result<Bytes, BlobError> {
        let RawBlob { number, padding, data, .. } = self.raw(offset)?;
        if dtype.blob_number() != Some(number) {
            let found = Dtype::from_blob(number).map_or_else(|| number.to_string(), |found| found.name().to_owned());
            return Err(BlobError::Type { offset, found, expected: dtype });
        }
        let found = (data.len() as u64 * 8).saturating_sub(padding);
        let expected = (count as u64).saturating_mul(dtype.bits().into());
        if found != expected {
            return Err(BlobError::Size { offset, found, expected });
        }
        Ok(data)
    }

    /// A blob, whatever it holds. The data is shared with the file.
    pub(crate) fn raw(&self, offset: u64) -> Result<RawBlob, BlobError> {
        let no_blob = || BlobError::NoBlob { file_name: self.name.clone(), offset };
        let at = usize::try_from(offset).ok().filter(|at| at % ALIGNMENT as usize == 0).ok_or_else(no_blob)?;
        let metadata = at.checked_add(HEADER).and_then(|end| self.bytes.get(at..end)).ok_or_else(no_blob)?;
        if u32_at(metadata, 0) != SENTINEL {
            return Err(no_blob());
        }
        let (number, size, start) = (u32_at(metadata, 4), u64_at(metadata, 8), u64_at(metadata, 16));
        let end = start.checked_add(size).and_then(|end| usize::try_from(end).ok());
        let range = usize::try_from(start).ok().zip(end).filter(|&(_, end)| end <= self.bytes.len());
        let (start_at, end_at) =
            range.ok_or(BlobError::Bounds { offset, start, size, len: self.bytes.len() as u64 })?;
        // Only types below a byte have unused bits; with others, the field may hold anything.
        let is_below_byte = Dtype::from_blob(number).is_some_and(|dtype| dtype.bits() < 8);
        let padding = if is_below_byte { u64_at(metadata, 24) } else { 0 };
        if padding >= 8 || padding > size.saturating_mul(8) {
            let found = size.saturating_mul(8);
            return Err(BlobError::Size { offset, found, expected: found.saturating_sub(padding) });
        }
        Ok(RawBlob { number, padding, end: end_at as u64, data: self.bytes.slice(start_at..end_at) })
    }
}

/// A blob as it lies in a file.
#[derive(Clone, Debug)]
pub(crate) struct RawBlob {
    /// The number of its type.
    number: u32,
    /// Unused bits at the end of the data.
    padding: u64,
    /// Where the data ends.
    pub(crate) end: u64,
    pub(crate) data: Bytes,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Where the blobs of a new file lie: known as soon as their types and counts are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    blobs: Vec<Blob>,
}

/// A blob in a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    /// The offset of its metadata; the data follows after 64 bytes.
    pub(crate) offset: u64,
    /// The number of its type.
    number: u32,
    /// Bytes of its data.
    pub(crate) len: usize,
    padding: u64,
}

impl Layout {
    /// Adds a blob of `count` elements, and returns its index.
    pub(crate) fn add(&mut self, dtype: Dtype, count: usize) -> usize {
        let len = dtype.byte_len(count).unwrap_or(usize::MAX);
        let padding = (len as u64).wrapping_mul(8).wrapping_sub((count as u64).wrapping_mul(dtype.bits().into())) & 7;
        self.push(dtype.blob_number().unwrap_or_default(), len, padding)
    }

    /// Adds a blob of another file as it is, and returns its index.
    pub(crate) fn add_copy(&mut self, blob: &RawBlob) -> usize {
        self.push(blob.number, blob.data.len(), blob.padding)
    }

    fn push(&mut self, number: u32, len: usize, padding: u64) -> usize {
        self.blobs.push(Blob { offset: aligned(self.len()), number, len, padding });
        self.blobs.len() - 1
    }

    /// The blobs, in the order of the file.
    pub(crate) fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// The file's length: it ends with the last blob's data.
    pub(crate) fn len(&self) -> u64 {
        self.blobs.last().map_or(HEADER as u64, |blob| (blob.offset + HEADER as u64).saturating_add(blob.len as u64))
    }

    /// The file's first 64 bytes.
    pub(crate) fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        // More than 2^32 blobs have no room in memory.
        header[..4].copy_from_slice(&(self.blobs.len() as u32).to_le_bytes());
        header[4..8].copy_from_slice(&VERSION.to_le_bytes());
        header
    }
}

impl Blob {
    /// The 64 bytes before its data.
    pub(crate) fn metadata(&self) -> [u8; HEADER] {
        let mut metadata = [0; HEADER];
        metadata[..4].copy_from_slice(&SENTINEL.to_le_bytes());
        metadata[4..8].copy_from_slice(&self.number.to_le_bytes());
        metadata[8..16].copy_from_slice(&(self.len as u64).to_le_bytes());
        metadata[16..24].copy_from_slice(&self.data_offset().to_le_bytes());
        metadata[24..32].copy_from_slice(&self.padding.to_le_bytes());
        metadata
    }

    /// Where its data starts.
    pub(crate) fn data_offset(&self) -> u64 {
        self.offset + HEADER as u64
    }
}

/// The next multiple of 64.
pub(crate) fn aligned(offset: u64) -> u64 {
    offset.div_ceil(ALIGNMENT) * ALIGNMENT
}

/// Bytes that a blob adds to a file: its metadata and its data, up to where the next one may start.
pub(crate) fn stored_len(dtype: Dtype, count: usize) -> u64 {
    HEADER as u64 + aligned(dtype.byte_len(count).unwrap_or(usize::MAX) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(blobs: &[(Dtype, usize, &[u8])]) -> Vec<u8> {
        let mut layout = Layout::default();
        for (dtype, count, _) in blobs {
            layout.add(*dtype, *count);
        }
        let mut bytes = vec![0; layout.len() as usize];
        bytes[..64].copy_from_slice(&layout.header());
        for (blob, (_, _, data)) in layout.blobs().iter().zip(blobs) {
            let at = blob.offset as usize;
            bytes[at..at + 64].copy_from_slice(&blob.metadata());
            bytes[at + 64..at + 64 + data.len()].copy_from_slice(data);
        }
        bytes
    }

    fn open(bytes: &[u8]) -> Result<BlobFile, BlobError> {
        BlobFile::new("@model_path/weights/weight.bin", Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = file(&[(Dtype::Uint3, 7, &[0xd1, 0x58, 0x1f]), (Dtype::Float16, 2, &[1, 2, 3, 4])]);
        assert_eq!(bytes.len(), 64 + 128 + 68);
        let file = open(&bytes).unwrap();
        assert_eq!(&file.blob(64, Dtype::Uint3, 7).unwrap()[..], [0xd1, 0x58, 0x1f]);
        assert_eq!(&file.blob(192, Dtype::Float16, 2).unwrap()[..], [1, 2, 3, 4]);
    }

    #[test]
    fn hostile_files_are_errors() {
        let good = file(&[(Dtype::Int4, 3, &[1, 2])]);
        let changed = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            open(&file).and_then(|file| file.blob(64, Dtype::Int4, 3))
        };
        assert!(changed(0, &[9]).is_ok(), "the count is not looked at");
        assert!(changed(96, &[7; 32]).is_ok(), "reserved bytes are not looked at");
        assert!(matches!(changed(4, &[1]), Err(BlobError::Header { .. })));
        assert!(matches!(changed(64, &[0]), Err(BlobError::NoBlob { .. })));
        assert!(matches!(changed(68, &[4]), Err(BlobError::Type { .. })));
        assert!(matches!(changed(68, &[99]), Err(BlobError::Type { .. })));
        assert!(matches!(changed(72, &[0xFF; 8]), Err(BlobError::Bounds { .. })));
        assert!(matches!(changed(80, &[0xFF; 8]), Err(BlobError::Bounds { .. })));
        assert!(matches!(changed(88, &[8]), Err(BlobError::Size { .. })));
        assert!(matches!(changed(88, &[0xFF; 8]), Err(BlobError::Size { .. })));
        assert!(matches!(changed(72, &[1]), Err(BlobError::Size { .. })));
        let file = open(&good).unwrap();
        for offset in [0, 65, 128, 192, u64::MAX, u64::MAX - 63] {
            assert!(matches!(file.blob(offset, Dtype::Int4, 3), Err(BlobError::NoBlob { .. })), "{offset}");
        }
        assert!(matches!(file.blob(64, Dtype::Int4, usize::MAX), Err(BlobError::Size { .. })));
        assert!(matches!(open(&good[..63]), Err(BlobError::Header { .. })));
    }
}
