//! What writing a file needs of the system: everything in the crate that differs from one to another.
//!
//! Unix and Windows have calls of their own. Anywhere else, WebAssembly for example, the plain ones serve; they are
//! compiled and tested everywhere.

#[cfg(not(any(unix, windows)))]
pub(super) use plain::write_at;
#[cfg(not(unix))]
pub(super) use plain::{set_permissions, sync_folder};
#[cfg(unix)]
pub(super) use unix::{set_permissions, sync_folder, write_at};
#[cfg(windows)]
pub(super) use windows::write_at;

#[cfg(unix)]
mod unix {
    use std::fs::{File, Permissions};
    use std::io;
    use std::os::unix::fs::{FileExt, PermissionsExt};
    use std::path::Path;

    /// Writes bytes at an offset, whatever other threads write elsewhere.
    pub(in super::super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// The permissions of a new file that is to replace an old one: no more than those from the start; as for any new
    /// file, the umask takes from them.
    pub(in super::super) fn set_permissions(new: &mut tempfile::Builder<'_, '_>, old: Option<&Permissions>) {
        new.permissions(old.cloned().unwrap_or_else(|| Permissions::from_mode(0o666)));
    }

    /// Waits until the disk has the names of the files in a folder.
    pub(in super::super) fn sync_folder(folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

#[cfg(windows)]
mod windows {
    use std::fs::File;
    use std::io;
    use std::os::windows::fs::FileExt;

    /// Writes bytes at an offset, whatever other threads write elsewhere.
    pub(in super::super) fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = file.seek_write(bytes, offset)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
            offset += written as u64;
        }
        Ok(())
    }
}

#[cfg(any(test, not(unix)))]
#[cfg_attr(any(unix, windows), allow(dead_code, reason = "tests hold it against the system's own"))]
mod plain {
    use std::fs::{File, Permissions};
    use std::io::{self, Seek, SeekFrom, Write};
    use std::path::Path;
    use std::sync::{Mutex, PoisonError};

    /// A file has one position: whoever has moved it writes before the next one does.
    static POSITION: Mutex<()> = Mutex::new(());

    /// Writes bytes at an offset, whatever other threads write elsewhere.
    pub(in super::super) fn write_at(mut file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let _turn = POSITION.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    /// The permissions of a new file that is to replace an old one: those that the system gives a new file.
    pub(in super::super) fn set_permissions(_: &mut tempfile::Builder<'_, '_>, _: Option<&Permissions>) {}

    /// Waits until the disk has the names of the files in a folder: what a system offers no call for.
    pub(in super::super) fn sync_folder(_: &Path) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{plain, write_at};
    use rayon::prelude::*;
    use std::fs::{self, File};
    use std::io;

    type WriteAt = fn(&File, &[u8], u64) -> io::Result<()>;

    /// Many threads write pieces of many lengths, all at once and in no order.
    #[test]
    fn pieces_from_many_threads_make_the_file() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut pieces: Vec<(usize, &[u8])> = Vec::new();
        let mut offset = 0;
        while offset < bytes.len() {
            let end = bytes.len().min(offset + 1 + offset % 997);
            pieces.push((offset, &bytes[offset..end]));
            offset = end;
        }
        pieces.sort_by_key(|(offset, _)| offset % 7);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        for write_at in [write_at as WriteAt, plain::write_at] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(bytes.len() as u64).unwrap();
            pool.install(|| {
                let write = |(offset, piece): &(usize, &[u8])| write_at(file.as_file(), piece, *offset as u64);
                pieces.par_iter().try_for_each(write).unwrap();
            });
            assert!(fs::read(file.path()).unwrap() == bytes);
        }
    }
}
