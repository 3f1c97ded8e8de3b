//! Bodies made smaller and whole again: gzip, zstd, zlib and deflate, one message at a time.
//!
//! No streaming: a message is complete when it comes here. Contexts and the working buffer belong to the
//! thread and are reused, because setting one up costs more than compressing a small message. Invariant:
//! memory follows what is really produced, never a size that a header announces; output never passes the
//! limit.

mod inflate;
#[cfg(test)]
mod tests;
mod zstandard;

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};

/// A way to make bodies smaller; no compression is the absence of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// RFC 1952; several members in a row are one message.
    Gzip,
    /// RFC 8878; several frames in a row are one message.
    Zstd,
    /// RFC 1950.
    Zlib,
    /// What HTTP calls `deflate`: written as RFC 1950, read as that or as raw RFC 1951.
    Deflate,
}

impl Codec {
    /// Every codec, in the order of the discriminants.
    pub const ALL: [Codec; 4] = [Codec::Gzip, Codec::Zstd, Codec::Zlib, Codec::Deflate];

    /// The name as it stands in `grpc-encoding` and `content-encoding`.
    pub fn as_str(self) -> &'static str {
        match self {
            Codec::Gzip => "gzip",
            Codec::Zstd => "zstd",
            Codec::Zlib => "zlib",
            Codec::Deflate => "deflate",
        }
    }

    /// The codec of that name, in any case.
    pub fn named(name: &str) -> Option<Codec> {
        Self::ALL.into_iter().find(|codec| codec.as_str().eq_ignore_ascii_case(name))
    }

    /// The levels [`compress`] takes, inclusive.
    pub fn levels(self) -> std::ops::RangeInclusive<i32> {
        match self {
            Codec::Gzip | Codec::Zlib | Codec::Deflate => 1..=9,
            Codec::Zstd => -7..=22,
        }
    }
}

/// Why a body did not become whole again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// More than the limit would come out; nothing is kept.
    #[error("the body decompresses to more than {limit} bytes")]
    TooLarge {
        /// The limit given, in bytes.
        limit: usize,
    },
    /// Not of the codec, damaged, cut off, or of a zstd window above 8 MiB.
    #[error("the body is not validly compressed")]
    Malformed,
}

/// A buffer that starts here costs nothing worth saving.
const FIRST_BUFFER: usize = 16 * 1024;
/// Working memory that is kept between messages, and the size of the pieces larger ones come in; most
/// messages stay below.
const KEPT_BUFFER: usize = 1024 * 1024;
/// gzip members or zstd frames of one message. Block-wise writers put 64 KiB into one, so this is 256 MiB
/// of theirs; without a limit 20 bytes of input would buy the set-up of a decoder each.
const MAX_MEMBERS: usize = 4096;
/// Fastest levels: at 100 spans a request gzip 1 costs a quarter of gzip 6 for 16 % more bytes.
const DEFAULT_LEVEL: i32 = 1;

/// Compresses the parts as one message.
///
/// `level` is clamped to [`Codec::levels`]; default 1.
///
/// # Errors
/// Only if the system has no memory for a context; the caller may send uncompressed or fail.
pub fn compress(codec: Codec, level: Option<i32>, parts: &[Bytes]) -> io::Result<Bytes> {
    let levels = codec.levels();
    let level = level.unwrap_or(DEFAULT_LEVEL).clamp(*levels.start(), *levels.end());
    with_buffer(usize::MAX, |output| match codec {
        Codec::Zstd => zstandard::compress(level, parts, output),
        Codec::Gzip => DEFLATERS.with_borrow_mut(|d| deflate(&mut d.gzip, (level, true), parts, output)),
        Codec::Zlib | Codec::Deflate => {
            DEFLATERS.with_borrow_mut(|d| deflate(&mut d.zlib, (level, false), parts, output))
        }
    })
}

/// Decompresses one message into a buffer of its exact size, of at most `limit` bytes.
///
/// # Errors
/// [`DecompressError::TooLarge`]: answer 413 / RESOURCE_EXHAUSTED; [`DecompressError::Malformed`]: 400 /
/// INVALID_ARGUMENT. Neither may be sent again.
pub fn decompress(codec: Codec, data: &[u8], limit: usize) -> Result<Bytes, DecompressError> {
    with_buffer(limit, |output| match codec {
        Codec::Zstd => zstandard::decompress(data, output),
        Codec::Gzip => inflate::gzip(data, output),
        Codec::Zlib => inflate::zlib(data, output),
        Codec::Deflate => inflate::deflate(data, output),
    })
}

/// What came out so far: full pieces, and the one that is being filled. The first piece is reused, so that
/// no call pays for clearing it; what is larger grows by pieces, so that nothing is held twice.
struct Output {
    full: Vec<Vec<u8>>,
    storage: Vec<u8>,
    filled: usize,
    limit: usize,
}

impl Output {
    /// Free space, at least one byte.
    ///
    /// # Errors
    /// The limit is reached.
    fn space(&mut self) -> Result<&mut [u8], DecompressError> {
        let left = self.limit - self.before();
        if self.filled == left {
            return Err(DecompressError::TooLarge { limit: self.limit });
        }
        if self.filled == self.storage.len() {
            self.grow(left);
        }
        let end = self.storage.len().min(self.limit - self.before());
        Ok(&mut self.storage[self.filled..end])
    }

    fn grow(&mut self, left: usize) {
        if self.filled < KEPT_BUFFER {
            let size = (self.filled * 2).clamp(FIRST_BUFFER, KEPT_BUFFER).min(left);
            return self.storage.resize(size, 0);
        }
        let next = vec![0; KEPT_BUFFER.min(left - self.filled)];
        self.full.push(std::mem::replace(&mut self.storage, next));
        self.filled = 0;
    }

    /// Bytes in full pieces, all of one size.
    fn before(&self) -> usize {
        self.full.len() * KEPT_BUFFER
    }

    /// Whether nothing more may come out; a decoder then has to be at its end.
    fn is_full(&self) -> bool {
        self.before() + self.filled == self.limit
    }

    fn advance(&mut self, produced: usize) {
        self.filled += produced;
    }

    /// The last bytes that came out, as many as `advance` was told.
    fn last(&self, produced: usize) -> &[u8] {
        &self.storage[self.filled - produced..self.filled]
    }

    /// All of it in one buffer of its size; the first piece is left behind for the next.
    fn whole(self) -> (Bytes, Vec<u8>) {
        if self.full.is_empty() {
            return (Bytes::copy_from_slice(&self.storage[..self.filled]), self.storage);
        }
        let mut whole = Vec::with_capacity(self.before() + self.filled);
        let mut pieces = self.full.into_iter();
        let first = pieces.next().unwrap_or_default();
        whole.extend_from_slice(&first);
        pieces.for_each(|piece| whole.extend_from_slice(&piece));
        whole.extend_from_slice(&self.storage[..self.filled]);
        (whole.into(), first)
    }
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static DEFLATERS: RefCell<Deflaters> = const { RefCell::new(Deflaters { gzip: None, zlib: None }) };
}

/// Runs `work` on this thread's buffer and copies the result out.
fn with_buffer<E>(limit: usize, work: impl FnOnce(&mut Output) -> Result<(), E>) -> Result<Bytes, E> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut output = Output { full: Vec::new(), storage: std::mem::take(buffer), filled: 0, limit };
        let worked = work(&mut output);
        match worked {
            Ok(()) => {
                let (whole, first) = output.whole();
                *buffer = first;
                Ok(whole)
            }
            Err(error) => {
                let first = output.full.into_iter().next();
                *buffer = first.unwrap_or(output.storage);
                Err(error)
            }
        }
    })
}

/// This thread's deflate contexts, with the level each was made for.
struct Deflaters {
    gzip: Option<(i32, Compress)>,
    zlib: Option<(i32, Compress)>,
}

fn deflate(
    slot: &mut Option<(i32, Compress)>,
    (level, gzip): (i32, bool),
    parts: &[Bytes],
    output: &mut Output,
) -> io::Result<()> {
    let context = match slot {
        Some((made_for, context)) if *made_for == level => {
            context.reset();
            context
        }
        _ => {
            let compression = Compression::new(level.unsigned_abs());
            // 15 is the largest window deflate has: 32 KiB.
            let made = match gzip {
                true => Compress::new_gzip(compression, 15),
                false => Compress::new(compression, true),
            };
            &mut slot.insert((level, made)).1
        }
    };
    for part in parts {
        let mut rest = &part[..];
        while !rest.is_empty() {
            let (taken, _) = deflate_step(context, rest, output, FlushCompress::None)?;
            rest = &rest[taken..];
        }
    }
    while deflate_step(context, &[], output, FlushCompress::Finish)?.1 != Status::StreamEnd {}
    Ok(())
}

fn deflate_step(
    context: &mut Compress,
    input: &[u8],
    output: &mut Output,
    flush: FlushCompress,
) -> io::Result<(usize, Status)> {
    let (read, written) = (context.total_in(), context.total_out());
    let space = output.space().map_err(io::Error::other)?;
    let status = context.compress(input, space, flush)?;
    output.advance((context.total_out() - written) as usize);
    Ok(((context.total_in() - read) as usize, status))
}
