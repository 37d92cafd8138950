//! What is written: every file beside its place and then renamed, so that no output can hurt an input, another output,
//! or the file that was there before.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use coreml_quant::Model;

use crate::failure::Failure;
use crate::interrupt::Workplace;

/// The path that stands for standard input or output.
pub fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A file that will be there when it is finished.
#[derive(Debug)]
pub struct Output {
    /// The path, as it was given.
    shown: PathBuf,
    /// The file to make or replace; `None` for standard output.
    place: Option<PathBuf>,
    /// The file until it is finished.
    unfinished: PathBuf,
    workplace: Workplace,
}

impl Output {
    /// Sees that the file can be written, without touching what is there.
    pub fn prepare(path: &Path) -> Result<Self, Failure> {
        let fail = |error: io::Error| Failure::of_file(path, &error);
        let (place, workplace) = if is_standard(path) {
            if io::stdout().is_terminal() {
                return Err(Failure::Usage("standard output is a terminal; redirect it or give a file".to_owned()));
            }
            (None, Workplace::beside(&std::env::temp_dir()).map_err(fail)?)
        } else {
            let place = follow_links(path).map_err(fail)?;
            match fs::metadata(&place) {
                Ok(old) if old.is_dir() && is_package(&place) => {}
                Ok(old) if old.is_dir() => return Err(Failure::of_file(path, &"is a folder, not a file")),
                Ok(old) if !old.is_file() => return Err(Failure::of_file(path, &"is no regular file")),
                _ => {}
            }
            let workplace = Workplace::beside(folder_of(&place)).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Failure::of_file(path, &"the folder does not exist"),
                kind => Failure::of_file(path, &format!("the folder cannot be written to: {kind}")),
            })?;
            (Some(place), workplace)
        };
        let unfinished = workplace.path().join(if is_package(path) { "output.mlpackage" } else { "output" });
        Ok(Self { shown: path.to_owned(), place, unfinished, workplace })
    }

    /// As [`prepare`](Self::prepare), if there is a path.
    pub fn prepare_optional(path: Option<&Path>) -> Result<Option<Self>, Failure> {
        path.map(Self::prepare).transpose()
    }

    /// Where to write it.
    pub fn path(&self) -> &Path {
        &self.unfinished
    }

    /// The path it will have, as it was given.
    pub fn given(&self) -> &Path {
        &self.shown
    }

    /// Whether it goes to standard output.
    pub fn is_standard(&self) -> bool {
        self.place.is_none()
    }

    /// Writes the whole content.
    pub fn write(&self, content: impl AsRef<[u8]>) -> Result<(), Failure> {
        fs::write(&self.unfinished, content).map_err(|error| Failure::of_file(&self.shown, &error))
    }

    /// Puts the finished file into its place. The permissions of an old one are kept.
    pub fn finish(self) -> Result<(), Failure> {
        let fail = |error: io::Error| Failure::of_file(&self.shown, &error);
        let Some(place) = &self.place else {
            let mut file = File::open(&self.unfinished).map_err(fail)?;
            let mut standard = io::stdout().lock();
            return io::copy(&mut file, &mut standard).and_then(|_| standard.flush()).map_err(fail);
        };
        if self.unfinished.is_dir() {
            // A package may have to take the place of another one, which the library does in one step.
            return Ok(Model::open(&self.unfinished)?.save(place)?);
        }
        if let Ok(old) = fs::metadata(place) {
            fs::set_permissions(&self.unfinished, old.permissions()).map_err(fail)?;
        }
        fs::rename(&self.unfinished, place).map_err(fail)?;
        drop(self.workplace);
        Ok(())
    }
}

/// Whether a path is that of a package.
fn is_package(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "mlpackage")
}

/// The bytes of a file, or of all files of a folder.
pub fn len_of(path: &Path) -> io::Result<u64> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    fs::read_dir(path)?.map(|entry| len_of(&entry?.path())).sum()
}

/// The folder that a file lies in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file behind symbolic links, whether it is there or not.
fn follow_links(path: &Path) -> io::Result<PathBuf> {
    /// As many as Linux follows.
    const MOST: usize = 40;
    let mut place = path.to_owned();
    for _ in 0..MOST {
        match fs::read_link(&place) {
            Err(_) => return Ok(place),
            Ok(link) => place = folder_of(&place).join(link),
        }
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

/// What tells whether two paths are the same file.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    Standard,
    /// The number of an existing file, which hard links share.
    #[cfg(unix)]
    Number(u64, u64),
    Path(PathBuf),
}

impl Identity {
    fn of(path: &Path) -> Self {
        if is_standard(path) {
            return Self::Standard;
        }
        #[cfg(unix)]
        if let Ok(metadata) = fs::metadata(path) {
            use std::os::unix::fs::MetadataExt;
            return Self::Number(metadata.dev(), metadata.ino());
        }
        let place = follow_links(path).unwrap_or_else(|_| path.to_owned());
        let whole = fs::canonicalize(&place).or_else(|_| {
            let folder = fs::canonicalize(folder_of(&place))?;
            Ok::<_, io::Error>(place.file_name().map_or_else(|| folder.clone(), |name| folder.join(name)))
        });
        Self::Path(whole.unwrap_or(place))
    }
}

/// Refuses outputs that are the same file as an input or as another output, whatever links lead there.
///
/// `replaced` is the input that the first output may be.
pub fn refuse_same(inputs: &[&Path], outputs: &[Option<&Path>], replaced: Option<&Path>) -> Result<(), Failure> {
    let mut taken: Vec<(&Path, Identity, bool)> =
        inputs.iter().filter(|path| !is_standard(path)).map(|&path| (path, Identity::of(path), true)).collect();
    for (index, &path) in outputs.iter().enumerate() {
        let Some(path) = path else { continue };
        let identity = Identity::of(path);
        for (other, other_identity, input) in &taken {
            let allowed = index == 0 && replaced == Some(*other);
            if identity == *other_identity && !allowed {
                let (path, other) = (path.display(), other.display());
                return Err(Failure::Usage(if !input {
                    format!("two outputs are the same file: {other} and {path}")
                } else if index == 0 && replaced.is_none() {
                    format!("the output {path} is the input {other}; give another name, or --in-place to replace it")
                } else {
                    format!("the output {path} would replace the input {other}")
                }));
            }
        }
        taken.push((path, identity, false));
    }
    Ok(())
}

/// Prints text in one piece. Readers that have seen enough are no error.
pub fn print(text: &str) -> Result<(), Failure> {
    ignore_closed(write_all(&mut io::stdout().lock(), text))
}

/// As [`print`], to standard error.
pub fn print_aside(text: &str) {
    // Nobody may be listening.
    let _ = write_all(&mut io::stderr().lock(), text);
}

fn write_all(to: &mut dyn Write, text: &str) -> io::Result<()> {
    to.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        to.write_all(b"\n")?;
    }
    to.flush()
}

fn ignore_closed(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
