//! Writing files so that a crash leaves the old one or the new one, and whoever reads sees one of them whole.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

/// How long another process may hold a folder.
const LOCK_TRIES_MAX: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Writes a file that only its owner reads, or everybody: beside it first, then in its place.
///
/// # Errors
/// The old file is untouched.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = parent(path)?;
    let beside = folder.join(format!(".{}.partial", Uuid::new_v4()));
    let written = create(&beside, content, mode).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // Whatever is left of it is nobody's.
        let _ = std::fs::remove_file(&beside);
        return written;
    }
    sync_folder(folder)
}

/// Writes a new file and waits until it is on the disk; its folder has to be synced for its name to be.
///
/// # Errors
/// There is a file already, or it cannot be written.
pub(crate) fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    // What the process masks out of a mode is not what was asked for.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes the folder for its owner alone, with those above it, unless it is there.
///
/// # Errors
/// As `mkdir`.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Takes the lock of a folder, which ends when the file is closed; `None` if somebody holds it for too long. Blocks.
///
/// # Errors
/// The file cannot be opened.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)?;
    for _ in 0..LOCK_TRIES_MAX {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "called on threads for blocking work, where files are waited for"
                )]
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(None)
}

/// Waits until the names in the folder are on the disk.
///
/// # Errors
/// As `fsync`.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn parent(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => Ok(folder),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path names no folder",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o640).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        // A folder stands in the way: nothing is left of the try.
        std::fs::create_dir(folder.path().join("b")).unwrap();
        std::fs::write(folder.path().join("b/c"), "").unwrap();
        assert!(replace(&folder.path().join("b"), b"three", 0o600).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
