//! Files that hold a secret: a PIN, a private key, a password. One that other accounts may read is no secret any more,
//! so it is refused, not only warned of.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Everything that group and others may be allowed.
const OTHERS: u32 = 0o077;

/// A secret that other accounts may read or write.
#[derive(Debug, thiserror::Error)]
#[error("other accounts may use this secret: chmod 600 {}", file.display())]
pub(crate) struct NotPrivate {
    file: PathBuf,
}

/// Reads a file that only its owner may use.
///
/// # Errors
/// As reading does, and [`NotPrivate`] inside an error of kind `PermissionDenied`.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file = File::open(path)?;
    // Of the open file, so that nobody can exchange it in between.
    let facts = file.metadata()?;
    if facts.is_file() && facts.permissions().mode() & OTHERS != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, NotPrivate { file: path.to_owned() }));
    }
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(facts.len()).unwrap_or_default() + 1));
    file.read_to_end(&mut text)?;
    Ok(text)
}

/// As [`read`], of UTF-8 text.
pub(crate) fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    let bytes = read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_secret_that_others_may_use_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pin");
        fs::write(&file, "1234").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o644, 0o666] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let error = read(&file).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{mode:o}");
            assert!(error.to_string().contains(&format!("chmod 600 {}", file.display())), "{error}");
        }
        for mode in [0o600, 0o400] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_text(&file).unwrap().as_str(), "1234", "{mode:o}");
        }
    }
}
