//! Reads the fields of one message from its bytes.

use super::{BYTES, END_GROUP, FIXED32, FIXED64, Flaw, START_GROUP, VARINT, is_utf8};

/// A place in the bytes of one message.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// At the start of a message.
    #[inline(always)]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// At byte `at` of a message; at its end if it is shorter.
    #[inline]
    pub fn starting_at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at: at.min(bytes.len()) }
    }

    /// How many bytes of the message lie before this place.
    #[inline(always)]
    pub fn at(&self) -> usize {
        self.at
    }

    /// Whether the whole message is read.
    #[inline(always)]
    pub fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Reads the next field's key, or `None` at the end of the message.
    ///
    /// # Errors
    /// [`Flaw::Tag`], [`Flaw::Varint`], [`Flaw::Truncated`]. Of wire types only 6 and 7 are not refused
    /// here; [`Reader::skip`] does.
    #[inline(always)]
    pub fn key(&mut self) -> Result<Option<u32>, Flaw> {
        match self.bytes.get(self.at) {
            None => Ok(None),
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                if byte < 8 { Err(Flaw::Tag) } else { Ok(Some(u32::from(byte))) }
            }
            Some(_) => self.long_key().map(Some),
        }
    }

    fn long_key(&mut self) -> Result<u32, Flaw> {
        let key = u32::try_from(self.long_varint()?).map_err(|_| Flaw::Tag)?;
        if key < 8 { Err(Flaw::Tag) } else { Ok(key) }
    }

    /// Reads a varint.
    ///
    /// # Errors
    /// [`Flaw::Varint`], [`Flaw::Truncated`].
    #[inline(always)]
    pub fn varint(&mut self) -> Result<u64, Flaw> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Flaw> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let mut value = 0u64;
        for (count, &byte) in rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * count);
            if byte < 0x80 {
                // The tenth byte has room for one bit.
                if count == 9 && byte > 1 {
                    return Err(Flaw::Varint);
                }
                self.at += count + 1;
                return Ok(value);
            }
        }
        if rest.len() < 10 { Err(Flaw::Truncated) } else { Err(Flaw::Varint) }
    }

    /// Reads a length and that many bytes.
    ///
    /// # Errors
    /// [`Flaw::Truncated`], [`Flaw::Varint`].
    #[inline(always)]
    pub fn bytes(&mut self) -> Result<&'a [u8], Flaw> {
        let length = self.varint()?;
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if length > rest.len() as u64 {
            return Err(Flaw::Truncated);
        }
        let taken = rest.get(..length as usize).ok_or(Flaw::Truncated)?;
        self.at += taken.len();
        Ok(taken)
    }

    /// Reads a string.
    ///
    /// # Errors
    /// As [`Reader::bytes`], and [`Flaw::Utf8`].
    #[inline(always)]
    pub fn text(&mut self) -> Result<&'a [u8], Flaw> {
        let text = self.bytes()?;
        if is_utf8(text) { Ok(text) } else { Err(Flaw::Utf8) }
    }

    /// Reads eight bytes.
    ///
    /// # Errors
    /// [`Flaw::Truncated`].
    #[inline(always)]
    pub fn fixed64(&mut self) -> Result<u64, Flaw> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let value = rest.first_chunk::<8>().ok_or(Flaw::Truncated)?;
        self.at += 8;
        Ok(u64::from_le_bytes(*value))
    }

    /// Reads four bytes.
    ///
    /// # Errors
    /// [`Flaw::Truncated`].
    #[inline(always)]
    pub fn fixed32(&mut self) -> Result<u32, Flaw> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let value = rest.first_chunk::<4>().ok_or(Flaw::Truncated)?;
        self.at += 4;
        Ok(u32::from_le_bytes(*value))
    }

    /// Passes over the payload of the field whose key was just read; a group to its end.
    ///
    /// `depth` is how many more groups may nest.
    ///
    /// # Errors
    /// Any [`Flaw`] but `WireType` and `Utf8`.
    pub fn skip(&mut self, key: u32, depth: usize) -> Result<(), Flaw> {
        match key & 7 {
            VARINT => self.varint().map(drop),
            FIXED64 => self.fixed64().map(drop),
            BYTES => self.bytes().map(drop),
            FIXED32 => self.fixed32().map(drop),
            START_GROUP => self.skip_group(key, depth),
            _ => Err(Flaw::Tag),
        }
    }

    fn skip_group(&mut self, start: u32, depth: usize) -> Result<(), Flaw> {
        let inside = depth.checked_sub(1).ok_or(Flaw::Depth)?;
        loop {
            let key = self.key()?.ok_or(Flaw::Truncated)?;
            if key & 7 != END_GROUP {
                self.skip(key, inside)?;
            } else if key >> 3 == start >> 3 {
                return Ok(());
            } else {
                return Err(Flaw::Tag);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Result<(), Flaw>) {
        let mut reader = Reader::new(bytes);
        let read = (|| {
            while let Some(key) = reader.key()? {
                reader.skip(key, 3)?;
            }
            Ok(())
        })();
        assert_eq!(read, expected, "{bytes:02x?}");
    }

    #[test]
    fn every_wire_type_is_passed_over_and_every_flaw_is_named() {
        check(b"", Ok(()));
        check(b"\x08\x01\x11\0\0\0\0\0\0\0\0\x1a\x02ab\x25\0\0\0\0", Ok(()));
        check(b"\x0b\x08\x01\x13\x14\x0c", Ok(()));
        check(b"\x0b\x0b\x0b\x0c\x0c\x0c", Ok(()));
        check(b"\x0b\x0b\x0b\x0b\x0c\x0c\x0c\x0c", Err(Flaw::Depth));
        check(b"\x0b\x14", Err(Flaw::Tag));
        check(b"\x0b\x08\x01", Err(Flaw::Truncated));
        check(b"\x0c", Err(Flaw::Tag));
        check(b"\x0e", Err(Flaw::Tag));
        check(b"\x02\x00", Err(Flaw::Tag));
        check(b"\x82\x00\x00", Err(Flaw::Tag));
        check(b"\xff\xff\xff\xff\x7f\x00", Err(Flaw::Tag));
        check(b"\x08", Err(Flaw::Truncated));
        check(b"\x08\x80", Err(Flaw::Truncated));
        check(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Ok(()));
        check(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", Err(Flaw::Varint));
        check(b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", Err(Flaw::Varint));
        check(b"\x0a\x03ab", Err(Flaw::Truncated));
        check(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01ab", Err(Flaw::Truncated));
        check(b"\x11\0\0\0\0\0\0\0", Err(Flaw::Truncated));
        check(b"\x25\0\0\0", Err(Flaw::Truncated));
    }
}
