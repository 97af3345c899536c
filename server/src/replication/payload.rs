//! Where an image that comes over the wire ends.
//!
//! ```text
//! $169\r\n               so many bytes of RDB, then the stream
//! $EOF:<40 bytes>\r\n    RDB, then the same 40 bytes; the stream only after the replica has said a word
//! ```

/// The mark at the end of a payload whose length is not announced, in bytes.
const MARK_BYTES: usize = 40;

/// How an image's end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// It has so many bytes.
    Length(u64),
    /// These bytes follow it. Nothing follows them before the replica has said a word, so the image is complete when
    /// what has come ends with them.
    Mark([u8; MARK_BYTES]),
}

impl Payload {
    /// What the line before an image says.
    ///
    /// # Errors
    /// It announces no image; what it is instead.
    pub fn announced(line: &[u8]) -> Result<Payload, String> {
        if let Some(mark) = line.strip_prefix(b"$EOF:")
            && let Ok(mark) = mark.try_into()
        {
            return Ok(Payload::Mark(mark));
        }
        let text = String::from_utf8_lossy(line);
        if let Some(length) = text.strip_prefix('$').and_then(|digits| digits.parse().ok()) {
            return Ok(Payload::Length(length));
        }
        Err(match text.strip_prefix('-') {
            Some(error) => format!("MASTER aborted replication with an error: {error}"),
            None => format!(
                "Bad protocol from MASTER, the first byte is not '$' (we received '{text}'), are you sure the host and port are right?"
            ),
        })
    }

    /// Its length, if that is known.
    pub fn total_bytes(&self) -> Option<u64> {
        match self {
            Payload::Length(bytes) => Some(*bytes),
            Payload::Mark(_) => None,
        }
    }

    /// How many bytes at the start of `unread` belong to the image, of which `received` were taken before; and whether
    /// it is complete with them. If it is, [`Payload::end`] has to be taken next.
    pub fn split(&self, unread: &[u8], received: u64) -> (usize, bool) {
        match self {
            Payload::Length(length) => {
                let left = length.saturating_sub(received);
                let held = unread.len() as u64;
                (left.min(held) as usize, left <= held)
            }
            Payload::Mark(mark) if unread.ends_with(mark) => (unread.len() - MARK_BYTES, true),
            // Whatever may be the mark stays until more has come.
            Payload::Mark(_) => (unread.len().saturating_sub(MARK_BYTES), false),
        }
    }

    /// Takes what lies between an image, of `image_bytes`, and the stream; false if more has to come first.
    ///
    /// # Errors
    /// The image ends elsewhere than it should.
    pub fn end(&self, image_bytes: u64, unread: &mut Vec<u8>) -> Result<bool, String> {
        match self {
            Payload::Length(length) if image_bytes == *length => Ok(true),
            Payload::Length(length) => Err(format!("The image ends elsewhere than after the {length} bytes announced")),
            Payload::Mark(mark) if unread.starts_with(mark) => {
                unread.drain(..MARK_BYTES);
                Ok(true)
            }
            Payload::Mark(_) if unread.len() < MARK_BYTES => Ok(false),
            Payload::Mark(_) => Err("The image is not followed by the mark announced".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &[u8; MARK_BYTES] = b"0123456789abcdef0123456789abcdef01234567";

    /// The image, and what follows it, when the bytes come in pieces of `size`.
    fn received(payload: Payload, bytes: &[u8], size: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut image, mut unread) = (Vec::new(), Vec::new());
        let mut pieces = bytes.chunks(size);
        loop {
            let (ready, complete) = payload.split(&unread, image.len() as u64);
            image.extend(unread.drain(..ready));
            if complete {
                assert_eq!(payload.end(image.len() as u64, &mut unread), Ok(true));
                pieces.for_each(|piece| unread.extend(piece));
                return (image, unread);
            }
            unread.extend(pieces.next().expect("the image is complete"));
        }
    }

    #[test]
    fn an_image_ends_where_it_was_announced_to_however_it_is_cut() {
        for size in 1..60 {
            let of_length = received(Payload::Length(5), b"imagestream", size);
            assert_eq!(of_length, (b"image".to_vec(), b"stream".to_vec()), "pieces of {size}");
            // What looks like the beginning of the mark is a part of the image.
            let image = [b"image", &MARK[..7]].concat();
            let marked = received(Payload::Mark(*MARK), &[&image[..], MARK].concat(), size);
            assert_eq!(marked, (image, Vec::new()), "pieces of {size}");
        }
    }

    #[test]
    fn an_image_that_ends_elsewhere_is_refused() {
        assert!(Payload::Length(5).end(4, &mut Vec::new()).is_err());
        assert_eq!(Payload::Mark(*MARK).end(4, &mut MARK[..39].to_vec()), Ok(false));
        assert!(Payload::Mark(*MARK).end(4, &mut vec![b'x'; 40]).is_err());
    }

    #[test]
    fn what_announces_no_image_is_told() {
        assert_eq!(Payload::announced(b"$169"), Ok(Payload::Length(169)));
        assert_eq!(Payload::announced(&[b"$EOF:", &MARK[..]].concat()), Ok(Payload::Mark(*MARK)));
        assert!(Payload::announced(b"-LOADING").is_err_and(|why| why.contains("LOADING")));
        assert!(Payload::announced(b"$EOF:short").is_err_and(|why| why.contains("Bad protocol")));
    }
}
