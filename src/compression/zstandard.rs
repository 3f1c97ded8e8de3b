//! zstd, both ways.
//!
//! Invariant: a frame that wants a window above 8 MiB is refused before it gets one.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::{DecompressError, KEPT_BUFFER, MAX_MEMBERS, Output};

use DecompressError::Malformed;

/// log2 of 8 MiB, what RFC 8878 §3.1.1.1.2 asks decoders to support and encoders not to pass.
const MAX_WINDOW_LOG: u32 = 23;

thread_local! {
    static ENCODER: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static DECODER: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

pub(super) fn compress(level: i32, parts: &[Bytes], output: &mut Output) -> io::Result<()> {
    ENCODER.with_borrow_mut(|slot| {
        let context = match slot {
            Some(context) => context,
            None => slot.insert(CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?),
        };
        let total: usize = parts.iter().map(Bytes::len).sum();
        context.reset(ResetDirective::SessionOnly).map_err(failed)?;
        context.set_parameter(CParameter::CompressionLevel(level)).map_err(failed)?;
        context.set_pledged_src_size(Some(total as u64)).map_err(failed)?;
        for part in parts {
            let mut input = InBuffer::around(part);
            while input.pos() < part.len() {
                step(context, &mut input, output, ZSTD_EndDirective::ZSTD_e_continue)?;
            }
        }
        while step(context, &mut InBuffer::around(&[]), output, ZSTD_EndDirective::ZSTD_e_end)? > 0 {}
        Ok(())
    })
}

/// One step of the encoder; returns how much is left to flush.
fn step(
    context: &mut CCtx<'static>,
    input: &mut InBuffer<'_>,
    output: &mut Output,
    end: ZSTD_EndDirective,
) -> io::Result<usize> {
    let mut space = OutBuffer::around(output.space().map_err(io::Error::other)?);
    let left = context.compress_stream2(&mut space, input, end).map_err(failed)?;
    let produced = space.pos();
    output.advance(produced);
    Ok(left)
}

fn failed(code: usize) -> io::Error {
    io::Error::other(zstd::zstd_safe::get_error_name(code))
}

pub(super) fn decompress(data: &[u8], output: &mut Output) -> Result<(), DecompressError> {
    DECODER.with_borrow_mut(|slot| {
        let mut context = match slot.take() {
            Some(context) => context,
            None => DCtx::try_create().ok_or(Malformed)?,
        };
        context.reset(ResetDirective::SessionOnly).map_err(|_| Malformed)?;
        context.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).map_err(|_| Malformed)?;
        let result = frames(&mut context, data, output);
        // A context that once held a large window would keep it for as long as the thread lives.
        if context.sizeof() <= KEPT_BUFFER {
            *slot = Some(context);
        }
        result
    })
}

fn frames(context: &mut DCtx<'static>, data: &[u8], output: &mut Output) -> Result<(), DecompressError> {
    let mut input = InBuffer::around(data);
    let mut ended = 0;
    loop {
        let full = output.is_full();
        // At the limit one more byte is asked for, only to see whether there is one.
        let mut probe = [0];
        let before = input.pos();
        let mut space = OutBuffer::around(if full { &mut probe[..] } else { output.space()? });
        let left = context.decompress_stream(&mut space, &mut input).map_err(|_| Malformed)?;
        let produced = space.pos();
        if full && produced > 0 {
            return Err(DecompressError::TooLarge { limit: output.limit });
        }
        output.advance(produced);
        match (left, input.pos() == data.len()) {
            (0, true) => return Ok(()),
            (0, false) if ended == MAX_MEMBERS => return Err(Malformed),
            (0, false) => ended += 1,
            _ if produced == 0 && input.pos() == before => return Err(Malformed),
            _ => {}
        }
    }
}
