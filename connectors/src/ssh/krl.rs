//! The list of the revoked as OpenSSH reads it (PROTOCOL.krl): serial numbers, by authority.

/// What such a file begins with: the text, and the version of the format.
const MAGIC: &[u8] = b"SSHKRL\n\0";
const FORMAT: u32 = 1;
const CERTIFICATES: u8 = 1;
const SERIAL_LIST: u8 = 0x20;

/// The numbers of one authority that are revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    /// The public key of the authority, as OpenSSH encodes it.
    pub authority: Vec<u8>,
    pub serials: Vec<u64>,
}

fn string(into: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    into.extend(length.to_be_bytes());
    into.extend(bytes);
}

/// The whole file.
pub(super) fn written(version: u64, made_at_s: u64, sections: &[Section]) -> Vec<u8> {
    let mut file = MAGIC.to_vec();
    file.extend(FORMAT.to_be_bytes());
    file.extend(version.to_be_bytes());
    file.extend(made_at_s.to_be_bytes());
    // No flags, nothing reserved, no comment.
    file.extend([0; 8]);
    string(&mut file, b"");
    string(&mut file, b"");
    for section in sections {
        let mut body = Vec::new();
        string(&mut body, &section.authority);
        string(&mut body, b"");
        if !section.serials.is_empty() {
            let numbers: Vec<u8> = section
                .serials
                .iter()
                .flat_map(|serial| serial.to_be_bytes())
                .collect();
            body.push(SERIAL_LIST);
            string(&mut body, &numbers);
        }
        file.push(CERTIFICATES);
        string(&mut file, &body);
    }
    file
}

/// Reads a file in the form that is written here; `None` if it is another.
pub(super) fn read(file: &[u8]) -> Option<Vec<Section>> {
    let mut rest = file.strip_prefix(MAGIC)?;
    let (head, behind) = rest.split_at_checked(4 + 8 + 8 + 8)?;
    head.starts_with(&FORMAT.to_be_bytes()).then_some(())?;
    rest = behind;
    text(&mut rest)?;
    text(&mut rest)?;
    let mut sections = Vec::new();
    while let Some((kind, behind)) = rest.split_first() {
        rest = behind;
        let mut body = text(&mut rest)?;
        (*kind == CERTIFICATES).then_some(())?;
        let authority = text(&mut body)?.to_vec();
        text(&mut body)?;
        let mut serials = Vec::new();
        while let Some((kind, behind)) = body.split_first() {
            body = behind;
            let numbers = text(&mut body)?;
            (*kind == SERIAL_LIST).then_some(())?;
            for number in numbers.chunks(8) {
                serials.push(u64::from_be_bytes(number.try_into().ok()?));
            }
        }
        sections.push(Section { authority, serials });
    }
    Some(sections)
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (text, behind) = behind.split_at_checked(length)?;
    *rest = behind;
    Some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_written_is_read_and_half_of_it_is_not() {
        let sections = [
            Section {
                authority: b"user".to_vec(),
                serials: vec![1, u64::MAX],
            },
            Section {
                authority: b"host".to_vec(),
                serials: Vec::new(),
            },
        ];
        let file = written(7, 1, &sections);
        assert_eq!(read(&file).unwrap(), sections);
        let first = written(7, 1, &sections[..1]);
        for end in 0..first.len() {
            let half = read(&file[..end]);
            assert!(half.is_none() || end >= 44, "{end}: {half:?}");
        }
        assert!(read(b"").is_none() && read(b"SSHKRL\n\0").is_none());
    }
}
