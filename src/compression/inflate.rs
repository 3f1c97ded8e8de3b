//! gzip, zlib and raw deflate, read.
//!
//! The gzip frame is read here and not by the library, whose contexts cannot be reset to gzip. Invariant:
//! a message is taken only if every check sum and length it carries is right and nothing follows it.

use std::cell::RefCell;

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::{DecompressError, MAX_MEMBERS, Output};

use DecompressError::Malformed;

thread_local! {
    static INFLATER: RefCell<Option<Decompress>> = const { RefCell::new(None) };
}

/// Whether the deflate data stands in a zlib frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    Zlib,
    Raw,
}

pub(super) fn gzip(mut data: &[u8], output: &mut Output) -> Result<(), DecompressError> {
    for _ in 0..MAX_MEMBERS {
        data = member(data, output)?;
        if data.is_empty() {
            return Ok(());
        }
    }
    Err(Malformed)
}

pub(super) fn zlib(data: &[u8], output: &mut Output) -> Result<(), DecompressError> {
    only(Frame::Zlib, data, output)
}

pub(super) fn deflate(data: &[u8], output: &mut Output) -> Result<(), DecompressError> {
    let frame = match data {
        [first, second, ..] if is_zlib_header(*first, *second) => Frame::Zlib,
        _ => Frame::Raw,
    };
    only(frame, data, output)
}

/// Compression method 8, a window of at most 32 KiB, and a multiple of 31 (RFC 1950 §2.2).
fn is_zlib_header(first: u8, second: u8) -> bool {
    first & 0x0f == 8 && first >> 4 <= 7 && u16::from_be_bytes([first, second]).is_multiple_of(31)
}

fn only(frame: Frame, data: &[u8], output: &mut Output) -> Result<(), DecompressError> {
    match inflate(frame, data, output, |_| ())? {
        [] => Ok(()),
        _ => Err(Malformed),
    }
}

/// Reads one gzip member and returns what follows it.
fn member<'a>(data: &'a [u8], output: &mut Output) -> Result<&'a [u8], DecompressError> {
    let mut crc = Crc::new();
    let rest = inflate(Frame::Raw, after_header(data)?, output, |produced| crc.update(produced))?;
    let (trailer, rest) = rest.split_at_checked(8).ok_or(Malformed)?;
    // The length is kept modulo 2^32 (RFC 1952 §2.3.1), and so does the counter.
    let expected = [crc.sum().to_le_bytes(), crc.amount().to_le_bytes()].concat();
    if trailer == expected { Ok(rest) } else { Err(Malformed) }
}

/// What follows the header of a gzip member (RFC 1952 §2.3).
fn after_header(data: &[u8]) -> Result<&[u8], DecompressError> {
    let (fixed, mut rest) = data.split_at_checked(10).ok_or(Malformed)?;
    let flags = fixed[3];
    let reserved = flags & 0b1110_0000 != 0;
    if fixed[..3] != [0x1f, 0x8b, 8] || reserved {
        return Err(Malformed);
    }
    if flags & 0b0100 != 0 {
        let (length, extra) = rest.split_at_checked(2).ok_or(Malformed)?;
        rest = extra.get(usize::from(u16::from_le_bytes([length[0], length[1]]))..).ok_or(Malformed)?;
    }
    for text in [0b1000, 0b1_0000] {
        if flags & text != 0 {
            let end = rest.iter().position(|byte| *byte == 0).ok_or(Malformed)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & 0b0010 != 0 {
        rest = rest.get(2..).ok_or(Malformed)?;
    }
    Ok(rest)
}

/// Reads one deflate stream and returns what follows it; `see` gets what comes out, piece by piece.
fn inflate<'a>(
    frame: Frame,
    data: &'a [u8],
    output: &mut Output,
    mut see: impl FnMut(&[u8]),
) -> Result<&'a [u8], DecompressError> {
    INFLATER.with_borrow_mut(|slot| {
        let decoder = slot.get_or_insert_with(|| Decompress::new(false));
        decoder.reset(frame == Frame::Zlib);
        let mut rest = data;
        loop {
            let full = output.is_full();
            // At the limit one more byte is asked for, only to see whether there is one.
            let mut probe = [0];
            let space = if full { &mut probe[..] } else { output.space()? };
            let (read, written) = (decoder.total_in(), decoder.total_out());
            let status =
                decoder.decompress(rest, space, FlushDecompress::None).map_err(|_damaged| Malformed)?;
            let (taken, produced) =
                ((decoder.total_in() - read) as usize, (decoder.total_out() - written) as usize);
            rest = &rest[taken..];
            if full && produced > 0 {
                return Err(DecompressError::TooLarge { limit: output.limit });
            }
            output.advance(produced);
            see(output.last(produced));
            match status {
                Status::StreamEnd => return Ok(rest),
                _ if taken == 0 && produced == 0 => return Err(Malformed),
                _ => {}
            }
        }
    })
}
