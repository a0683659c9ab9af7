//! What was done, line after line, in a file that only grows.
//!
//! The file is the truth: something was done if its line is there. A line is on the disk before anybody is told, so what was
//! done and whose answer was lost is found again in it. Several processes may use one file, each reads what the others
//! added while it holds the lock of the folder.
//!
//! A line that was cut short is the last one, and nobody was told of it: it is cut off. A broken line anywhere else is
//! somebody's mistake, and nothing is done until it is mended.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connector::{Error, ErrorKind};

/// The longest line: a certificate chain with many names in PEM.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Journal<L> {
    path: PathBuf,
    /// How much of the file has been read, and how many lines that is.
    read: u64,
    lines: u64,
    line: PhantomData<fn() -> L>,
}

impl<L: Serialize + DeserializeOwned> Journal<L> {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            read: 0,
            lines: 0,
            line: PhantomData,
        }
    }

    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Reads what was added since, each line with the place where it begins. The caller holds the lock of the folder.
    pub fn catch_up(&mut self, mut take: impl FnMut(L, u64)) -> Result<(), Error> {
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.read == 0 => {
                return Ok(());
            }
            Err(error) => return Err(self.unreadable("it cannot be opened", error)),
        };
        let length = file
            .metadata()
            .map_err(|error| self.unreadable("it has no size", error))?
            .len();
        if length < self.read {
            return Err(self.broken("it is shorter than it was; put back the copy that is whole"));
        }
        let mut reader = BufReader::new(&file);
        reader
            .seek(SeekFrom::Start(self.read))
            .map_err(|error| self.unreadable("it cannot be read", error))?;
        while self.read < length {
            let mut line = Vec::new();
            let bytes = reader
                .by_ref()
                .take(LINE_BYTES_MAX)
                .read_until(b'\n', &mut line)
                .map_err(|error| self.unreadable("it cannot be read", error))?;
            let number = self.lines + 1;
            if line.last() != Some(&b'\n') {
                if bytes as u64 == LINE_BYTES_MAX {
                    return Err(self.broken(&format!("line {number} is too long")));
                }
                // It was being written when the machine stopped. Nobody was told.
                return file
                    .set_len(self.read)
                    .and_then(|()| file.sync_all())
                    .map_err(|error| self.unreadable("its last line is cut short", error));
            }
            let parsed = serde_json::from_slice(&line).map_err(|error| {
                self.broken(&format!(
                    "line {number} is not one of ours ({error}); mend it or put back the copy that is whole"
                ))
            })?;
            let offset = self.read;
            self.read += bytes as u64;
            self.lines = number;
            take(parsed, offset);
        }
        Ok(())
    }

    /// Adds a line, waits until it is on the disk, and says where it begins. The caller holds the lock of the folder
    /// and has caught up.
    ///
    /// # Errors
    /// It is not there.
    pub fn append(&mut self, line: &L) -> Result<u64, Error> {
        let mut text = serde_json::to_vec(line)
            .map_err(|error| Error::new(ErrorKind::Bug, "a line has no form").with_source(error))?;
        text.push(b'\n');
        let is_new = self.read == 0;
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&self.path)?;
            file.write_all(&text)?;
            file.sync_all()?;
            match (is_new, self.path.parent()) {
                (true, Some(folder)) => crate::disk::sync_folder(folder),
                _ => Ok(()),
            }
        };
        if let Err(error) = write() {
            // Half a line, or a whole one that nobody was told of, must not stand before the next.
            let cut = OpenOptions::new().write(true).open(&self.path);
            let cut = cut.and_then(|file| file.set_len(self.read).and_then(|()| file.sync_all()));
            return Err(match cut {
                Ok(()) => self.unreadable("nothing could be added to it", error),
                Err(_) => self.unreadable("it cannot be written", error),
            });
        }
        let offset = self.read;
        self.read += text.len() as u64;
        self.lines += 1;
        Ok(offset)
    }

    /// The line that begins there, read again.
    pub fn line(&self, offset: u64) -> Result<L, Error> {
        let read = || -> io::Result<Vec<u8>> {
            let mut reader = BufReader::new(File::open(&self.path)?);
            reader.seek(SeekFrom::Start(offset))?;
            let mut line = Vec::new();
            reader.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
            Ok(line)
        };
        let line = read().map_err(|error| self.unreadable("it cannot be read", error))?;
        serde_json::from_slice(&line)
            .map_err(|_| self.broken("a line is not what it was when it was first read"))
    }

    fn unreadable(&self, what: &str, error: io::Error) -> Error {
        Error::new(
            ErrorKind::Transient,
            format!("journal `{}`: {what}", self.path.display()),
        )
        .with_source(error)
    }

    fn broken(&self, what: &str) -> Error {
        Error::new(
            ErrorKind::Bug,
            format!("journal `{}`: {what}", self.path.display()),
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use std::path::Path;

    use super::*;

    fn read(path: &Path) -> (Journal<String>, Vec<String>) {
        let mut journal = Journal::new(path.to_path_buf());
        let mut lines = Vec::new();
        journal.catch_up(|line, _| lines.push(line)).unwrap();
        (journal, lines)
    }

    #[test]
    fn what_another_process_added_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let (mut one, mut other) = (read(&path).0, read(&path).0);
        one.append(&"a".to_owned()).unwrap();
        let offset = one.append(&"b".to_owned()).unwrap();
        let mut seen = Vec::new();
        other.catch_up(|line, at| seen.push((line, at))).unwrap();
        assert_eq!(seen, [("a".to_owned(), 0), ("b".to_owned(), offset)]);
        assert_eq!(other.line(offset).unwrap(), "b");
        assert_eq!(other.lines(), 2);
    }

    #[test]
    fn a_line_that_was_cut_short_is_cut_off_and_one_in_the_middle_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        read(&path).0.append(&"whole".to_owned()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..whole.len() {
            let mut torn = whole.clone();
            torn.extend(&whole[..cut]);
            std::fs::write(&path, &torn).unwrap();
            let (mut journal, lines) = read(&path);
            assert_eq!(lines, ["whole"]);
            journal.append(&"next".to_owned()).unwrap();
            assert_eq!(read(&path).1, ["whole", "next"], "{cut}");
        }
        let mut broken = b"{}\n".to_vec();
        broken.extend(&whole);
        std::fs::write(&path, &broken).unwrap();
        let error = Journal::<String>::new(path.clone())
            .catch_up(|_, _| ())
            .unwrap_err();
        assert!(
            error.message.contains("line 1 is not one of ours"),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), broken, "nothing was lost");

        let (mut journal, _) = {
            std::fs::write(&path, &whole).unwrap();
            read(&path)
        };
        std::fs::write(&path, "").unwrap();
        let error = journal.catch_up(|_, _| ()).unwrap_err();
        assert!(error.message.contains("shorter than it was"), "{error}");
    }
}
