//! A file that is written at the end of something that cannot be done again, and whose place is therefore made sure of
//! before it begins.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::exit::{Attempt as _, Exit, Failure};

/// A place in a folder that can be written to; what is there stays.
pub(in crate::commands) struct NewFile {
    file: PathBuf,
    place: NamedTempFile,
}

impl NewFile {
    /// Makes sure of the place.
    pub(in crate::commands) fn at(file: &Path) -> Result<Self, Failure> {
        if file.exists() {
            return Err(Failure::new(Exit::Usage, format_args!("{} is there already", file.display())));
        }
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let place = NamedTempFile::new_in(folder).or_exit(Exit::Usage, &format!("write into {}", folder.display()))?;
        Ok(Self { file: file.to_owned(), place })
    }

    /// Writes all of it, or nothing.
    pub(in crate::commands) fn write(mut self, text: &str) -> Result<(), Failure> {
        let what = format!("write {}; all else is done", self.file.display());
        let written = self.place.write_all(text.as_bytes()).and_then(|()| self.place.as_file().sync_all());
        written.or_exit(Exit::Refused, &what)?;
        self.place.persist_noclobber(&self.file).or_exit(Exit::Refused, &what).map(drop)
    }
}
