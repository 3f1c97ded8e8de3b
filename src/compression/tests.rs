use std::io::Write;

use proptest::prelude::*;

use super::*;

const MIB: usize = 1024 * 1024;

fn packed(codec: Codec, data: &[u8]) -> Bytes {
    compress(codec, None, &[Bytes::copy_from_slice(data)]).unwrap()
}

#[test]
fn names_and_codecs_agree() {
    for codec in Codec::ALL {
        assert_eq!(Codec::named(codec.as_str()), Some(codec));
        assert_eq!(Codec::named(&codec.as_str().to_uppercase()), Some(codec));
    }
    assert_eq!(Codec::named("snappy"), None);
    assert_eq!(Codec::named("identity"), None);
}

proptest! {
    #[test]
    fn what_was_compressed_comes_back(
        parts in prop::collection::vec(prop::collection::vec(prop::num::u8::ANY, 0..5000), 0..6),
        codec in prop::sample::select(&Codec::ALL[..]),
        level in prop::option::of(-10..30),
    ) {
        let whole = parts.concat();
        let parts: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
        let small = compress(codec, level, &parts).unwrap();
        prop_assert_eq!(decompress(codec, &small, whole.len()).unwrap(), whole);
    }

    #[test]
    fn damage_is_found_or_harmless_and_never_passes_the_limit(
        data in prop::collection::vec(0u8..4, 0..3000),
        codec in prop::sample::select(&Codec::ALL[..]),
        (at, bit) in (prop::num::usize::ANY, 0..8u32),
        cut in prop::num::usize::ANY,
    ) {
        let mut small = packed(codec, &data).to_vec();
        let at = at % small.len();
        small[at] ^= 1u8 << bit;
        if let Ok(read) = decompress(codec, &small, data.len()) {
            prop_assert!(read.len() <= data.len());
        }
        small[at] ^= 1u8 << bit;
        small.truncate(cut % small.len());
        prop_assert!(decompress(codec, &small, data.len()).is_err());
    }
}

#[test]
fn the_limit_is_exact() {
    for codec in Codec::ALL {
        for size in [1, 1000, FIRST_BUFFER - 1, FIRST_BUFFER, FIRST_BUFFER + 1, 3 * MIB + 7] {
            let data = vec![7; size];
            let small = packed(codec, &data);
            assert_eq!(decompress(codec, &small, size).unwrap().len(), size, "{codec:?} {size}");
            assert_eq!(decompress(codec, &small, size + 1).unwrap().len(), size, "{codec:?} {size}");
            let expected = Err(DecompressError::TooLarge { limit: size - 1 });
            assert_eq!(decompress(codec, &small, size - 1), expected, "{codec:?} {size}");
        }
        assert_eq!(decompress(codec, &packed(codec, b""), 0), Ok(Bytes::new()));
    }
}

#[test]
fn a_bomb_is_refused_at_the_limit() {
    for codec in Codec::ALL {
        let bomb = packed(codec, &vec![0; 32 * MIB]);
        assert!(bomb.len() < 512 * 1024, "{codec:?} {}", bomb.len());
        assert_eq!(decompress(codec, &bomb, 4 * MIB), Err(DecompressError::TooLarge { limit: 4 * MIB }));
        BUFFER.with_borrow(|kept| assert!(kept.len() <= KEPT_BUFFER));
    }
}

#[test]
fn an_announced_size_allocates_nothing() {
    // A zstd frame header with a content size of 2^62 and a window of 8 MiB, then nothing.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1100_0000, 13 << 3];
    frame.extend((1u64 << 62).to_le_bytes());
    assert_eq!(decompress(Codec::Zstd, &frame, usize::MAX), Err(DecompressError::Malformed));
}

#[test]
fn a_zstd_window_above_the_cap_is_refused() {
    // A frame of window 2^log with one raw block of no bytes, marked last.
    let empty = |log: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3, 1, 0, 0];
    assert_eq!(decompress(Codec::Zstd, &empty(23), 10), Ok(Bytes::new()));
    assert_eq!(decompress(Codec::Zstd, &empty(24), 10), Err(DecompressError::Malformed));
    assert_eq!(decompress(Codec::Zstd, &empty(30), 10), Err(DecompressError::Malformed));
}

#[test]
fn members_in_a_row_are_one_message() {
    for codec in [Codec::Gzip, Codec::Zstd] {
        let both = [packed(codec, b"one "), packed(codec, b""), packed(codec, b"two")].concat();
        assert_eq!(decompress(codec, &both, 7).unwrap(), "one two");
        assert_eq!(decompress(codec, &both, 6), Err(DecompressError::TooLarge { limit: 6 }));
        let flood = packed(codec, b"").repeat(2 * MAX_MEMBERS);
        assert_eq!(decompress(codec, &flood, 7), Err(DecompressError::Malformed));
    }
}

#[test]
fn what_follows_a_message_is_refused() {
    for codec in Codec::ALL {
        let mut data = packed(codec, b"whole").to_vec();
        data.push(0);
        assert_eq!(decompress(codec, &data, 100), Err(DecompressError::Malformed), "{codec:?}");
        assert_eq!(decompress(codec, b"", 100), Err(DecompressError::Malformed), "{codec:?}");
    }
}

#[test]
fn gzip_headers_with_every_field_are_read() {
    let mut encoder = flate2::GzBuilder::new()
        .filename("name")
        .comment("comment")
        .extra(vec![1, 2, 3])
        .write(Vec::new(), Compression::best());
    encoder.write_all(b"text").unwrap();
    let data = encoder.finish().unwrap();
    assert_eq!(decompress(Codec::Gzip, &data, 4).unwrap(), "text");
    for end in 0..data.len() {
        assert_eq!(decompress(Codec::Gzip, &data[..end], 4), Err(DecompressError::Malformed));
    }
}

#[test]
fn gzip_of_ours_is_read_by_others() {
    let data = packed(Codec::Gzip, b"text");
    let mut read = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&data[..]), &mut read).unwrap();
    assert_eq!(read, "text");
}

#[test]
fn deflate_is_read_with_and_without_its_frame() {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(b"raw").unwrap();
    assert_eq!(decompress(Codec::Deflate, &encoder.finish().unwrap(), 3).unwrap(), "raw");
    assert_eq!(decompress(Codec::Deflate, &packed(Codec::Zlib, b"zlib"), 4).unwrap(), "zlib");
}
