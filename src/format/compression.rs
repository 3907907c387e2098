//! The codecs of the log: their ids, and compressing and decompressing the records section of a batch as one stream.
//!
//! Decompression never yields or allocates more than the caller's limit (give or take one block). A codec whose cargo
//! feature is off keeps its id and its name, so that batches are carried as they are; only looking inside them says which
//! feature is missing.
//!
//! The writer makes one stream. The reader takes as many as a codec's format allows one after the other, as other
//! clients' encoders write them, and reads their contents as one.
//!
//! | id | codec | written | read besides |
//! |---:|-------|---------|--------------|
//! | 0 | none | the records as they are | |
//! | 1 | gzip | one RFC 1952 member | several members; bytes in which no further member begins are ignored |
//! | 2 | snappy | one xerial stream of 32 KiB blocks | several xerial streams; one bare block |
//! | 3 | lz4 | one LZ4 frame of independent 64 KiB blocks without checksums | several frames, skippable frames |
//! | 4 | zstd | one frame without content size and checksum | several frames, skippable frames |
//!
//! Kafka's Java readers (reference 2.4) differ in two places. Of LZ4 they read the first frame and ignore the rest, so a
//! batch with records in a second frame is invalid to them; here its records are read, and bytes that begin no frame are an
//! error. Of snappy they ignore up to three bytes behind the last block; here those are an error too.

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

use super::error::FormatError;
use crate::types::Position;

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Not compressed.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy, in the framing of the Java library.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard; batches of magic 2 only.
    Zstd,
}

impl Compression {
    /// All codecs, by id.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec with this id (the low three bits of a batch's attributes); `None` for 5 and more.
    #[must_use]
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The id that stands in a batch's attributes.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// Kafka's name: `none`, `gzip`, `snappy`, `lz4` or `zstd`; but for `none` the cargo feature's name too.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec with this name, in lower case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }
}

/// Why a codec would not go on; the caller adds which codec and where.
enum Refusal {
    /// The stream is damaged, or the encoder failed: the codec's words.
    Codec(String),
    /// The stream holds more than the limit: its size as far as known.
    TooLarge(u64),
    /// The codec's feature is off.
    #[cfg_attr(
        all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"),
        expect(dead_code, reason = "no feature is missing in a build with all of them")
    )]
    MissingFeature,
}

impl From<FormatError> for Refusal {
    fn from(error: FormatError) -> Self {
        Self::Codec(error.to_string())
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::Codec(error.to_string())
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Self {
        Self::Codec(reason.to_owned())
    }
}

/// Refuses a stream that has grown past `limit` bytes.
fn check_limit(size: usize, limit: usize) -> Result<(), Refusal> {
    if size > limit { Err(Refusal::TooLarge(size as u64)) } else { Ok(()) }
}

/// Appends `input`, compressed as one stream, to `out`. After an error `out` may end in part of a stream.
///
/// `level` is Kafka's; `None` is the codec's default. Snappy has no levels, and of LZ4 only the fast compressor is here.
pub(crate) fn compress(
    codec: Compression,
    level: Option<i32>,
    input: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), FormatError> {
    compress_with(codec, level, input, out).map_err(|refusal| match refusal {
        Refusal::Codec(reason) => FormatError::Compress { codec: codec.name(), reason },
        Refusal::TooLarge(size) => {
            FormatError::Compress { codec: codec.name(), reason: format!("{size} bytes are too many") }
        }
        Refusal::MissingFeature => FormatError::MissingFeature { codec: codec.name() },
    })
}

#[cfg_attr(
    not(any(feature = "gzip", feature = "zstd")),
    expect(unused_variables, reason = "only gzip and zstd have levels")
)]
fn compress_with(codec: Compression, level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    match codec {
        Compression::None => {
            out.extend_from_slice(input);
            Ok(())
        }
        #[cfg(feature = "gzip")]
        Compression::Gzip => gzip::compress(level, input, out),
        #[cfg(feature = "snappy")]
        Compression::Snappy => snappy::compress(input, out),
        #[cfg(feature = "lz4")]
        Compression::Lz4 => lz4::compress(input, out),
        #[cfg(feature = "zstd")]
        Compression::Zstd => zstd::compress(level, input, out),
        #[cfg(not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")))]
        _ => Err(Refusal::MissingFeature),
    }
}

/// The content of the streams that `input` consists of, at most `limit` bytes. `position` is where it stands, for errors.
pub(crate) fn decompress(
    codec: Compression,
    input: &[u8],
    position: Position,
    limit: usize,
) -> Result<Vec<u8>, FormatError> {
    let content = match codec {
        Compression::None => check_limit(input.len(), limit).map(|()| input.to_vec()),
        #[cfg(feature = "gzip")]
        Compression::Gzip => gzip::decompress(input, limit),
        #[cfg(feature = "snappy")]
        Compression::Snappy => snappy::decompress(input, limit),
        #[cfg(feature = "lz4")]
        Compression::Lz4 => lz4::decompress(input, lz4::HeaderChecksum::Descriptor, limit),
        #[cfg(feature = "zstd")]
        Compression::Zstd => zstd::decompress(input, limit),
        #[cfg(not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")))]
        _ => Err(Refusal::MissingFeature),
    };
    content.map_err(|refusal| refused(codec, position, limit, refusal))
}

/// [`decompress`] for an LZ4 frame inside a message v0, whose writers computed the header checksum over the magic
/// bytes too. The right checksum is accepted as well.
pub(crate) fn decompress_magic0_lz4(input: &[u8], position: Position, limit: usize) -> Result<Vec<u8>, FormatError> {
    #[cfg(feature = "lz4")]
    let content = lz4::decompress(input, lz4::HeaderChecksum::MagicToo, limit);
    #[cfg(not(feature = "lz4"))]
    let content: Result<Vec<u8>, Refusal> = {
        let _ = input;
        Err(Refusal::MissingFeature)
    };
    content.map_err(|refusal| refused(Compression::Lz4, position, limit, refusal))
}

/// The error for a stream at `position` that was refused.
fn refused(codec: Compression, position: Position, limit: usize, refusal: Refusal) -> FormatError {
    match refusal {
        Refusal::Codec(reason) => FormatError::Decompress { codec: codec.name(), position, reason },
        Refusal::TooLarge(got) => {
            FormatError::TooLarge { what: "decompressed content", position, limit: limit as u64, got }
        }
        Refusal::MissingFeature => FormatError::MissingFeature { codec: codec.name() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AT: Position = Position::new(61);

    fn built_in() -> Vec<Compression> {
        Compression::ALL
            .into_iter()
            .filter(|&codec| {
                !matches!(compress(codec, None, b"x", &mut Vec::new()), Err(FormatError::MissingFeature { .. }))
            })
            .collect()
    }

    fn packed(codec: Compression, input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compress(codec, None, input, &mut out).expect("compresses");
        out
    }

    /// Some of it compresses well, some not at all, and it is longer than any codec's block.
    fn sample() -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        let noise: Vec<u8> = (0..100_000).map(|_| random.u8(..)).collect();
        [b"stratum ".repeat(40_000), noise].concat()
    }

    #[test]
    fn ids_and_names_lead_back_to_their_codec() {
        for codec in Compression::ALL {
            assert_eq!(Compression::from_id(codec.id()), Some(codec));
            assert_eq!(Compression::from_name(codec.name()), Some(codec));
        }
        assert_eq!(Compression::from_id(5), None);
        assert_eq!(Compression::from_name("producer"), None);
    }

    #[test]
    fn every_codec_gives_back_what_it_took_and_appends() {
        for codec in built_in() {
            for input in [sample(), Vec::new(), b"one".to_vec(), vec![0; 65_536]] {
                let mut out = b"header".to_vec();
                compress(codec, None, &input, &mut out).expect("compresses");
                assert_eq!(&out[..6], b"header");
                assert_eq!(decompress(codec, &out[6..], AT, input.len()).expect("decompresses"), input, "{codec:?}");
            }
        }
    }

    #[test]
    fn content_one_byte_over_the_limit_is_too_large() {
        let input = sample();
        for codec in built_in() {
            let error = decompress(codec, &packed(codec, &input), AT, input.len() - 1).expect_err("too large");
            assert!(matches!(error, FormatError::TooLarge { .. }), "{codec:?}: {error}");
        }
    }

    #[test]
    fn bytes_after_the_stream_and_a_stream_cut_anywhere_are_refused() {
        for codec in built_in() {
            if codec == Compression::None {
                continue;
            }
            let stream = packed(codec, &b"abcdefgh".repeat(20));
            // Of gzip, Kafka's reader ignores them.
            for extra in [vec![0], vec![0; 8]].into_iter().filter(|_| codec != Compression::Gzip) {
                let error = decompress(codec, &[stream.clone(), extra].concat(), AT, 10_000).expect_err("has a tail");
                assert_eq!(error.position(), Some(AT));
            }
            // A xerial stream says nowhere how long it is: cut between blocks it is a shorter stream.
            let whole = |cut| codec == Compression::Snappy && cut == 16;
            for cut in (0..stream.len()).filter(|&cut| !whole(cut)) {
                assert!(decompress(codec, &stream[..cut], AT, 10_000).is_err(), "{codec:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn streams_of_one_codec_may_follow_each_other() {
        let parts = [b"one".to_vec(), Vec::new(), sample(), Vec::new(), b"two".to_vec()];
        let whole = parts.concat();
        for codec in built_in() {
            let streams: Vec<u8> = parts.iter().flat_map(|part| packed(codec, part)).collect();
            assert_eq!(decompress(codec, &streams, AT, whole.len()).as_ref(), Ok(&whole), "{codec:?}");
            let error = decompress(codec, &streams, AT, whole.len() - 1).expect_err("too large");
            assert!(matches!(error, FormatError::TooLarge { .. }), "{codec:?}: {error}");
        }
    }

    #[test]
    fn the_limit_holds_for_all_streams_together() {
        for codec in built_in() {
            let streams = packed(codec, &[7; 1000]).repeat(10);
            let error = decompress(codec, &streams, AT, 9_999).expect_err("too large");
            assert!(matches!(error, FormatError::TooLarge { .. }), "{codec:?}: {error}");
            assert_eq!(decompress(codec, &streams, AT, 10_000), Ok(vec![7; 10_000]), "{codec:?}");
        }
    }

    #[test]
    fn many_empty_streams_are_no_content_and_end() {
        for codec in built_in() {
            assert_eq!(decompress(codec, &packed(codec, b"").repeat(10_000), AT, 0), Ok(Vec::new()), "{codec:?}");
        }
    }

    #[test]
    fn a_second_stream_that_is_cut_or_damaged_is_refused() {
        for codec in built_in().into_iter().filter(|codec| *codec != Compression::None) {
            let stream = packed(codec, &b"abcdefgh".repeat(20));
            // Of gzip, a header that is cut begins no member; of snappy, blocks may end anywhere.
            let ignored = match codec {
                Compression::Gzip => 0..=10,
                Compression::Snappy => 16..=16,
                _ => 0..=0,
            };
            for cut in (1..stream.len()).filter(|cut| !ignored.contains(cut)) {
                let bytes = [&stream[..], &stream[..cut]].concat();
                assert!(decompress(codec, &bytes, AT, 10_000).is_err(), "{codec:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn an_uncompressed_section_is_held_to_the_limit_too() {
        assert!(decompress(Compression::None, b"abc", AT, 2).is_err());
    }

    #[test]
    fn levels_out_of_range_are_refused_or_held_but_never_a_panic() {
        for codec in built_in() {
            for level in [i32::MIN, -1, 0, 1, 10, i32::MAX] {
                let mut out = Vec::new();
                if compress(codec, Some(level), b"abc", &mut out).is_ok() {
                    assert_eq!(decompress(codec, &out, AT, 3).as_deref(), Ok(&b"abc"[..]));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic_a_decompressor(bytes: Vec<u8>) {
            for codec in Compression::ALL {
                let _ = decompress(codec, &bytes, AT, 1 << 16);
            }
            let _ = decompress_magic0_lz4(&bytes, AT, 1 << 16);
        }

        #[test]
        fn a_changed_byte_never_panics_a_decompressor_nor_passes_its_limit(
            content in prop::collection::vec(0_u8..4, 0..400), at: prop::sample::Index, value: u8
        ) {
            for codec in built_in() {
                let mut stream = packed(codec, &content);
                if stream.is_empty() {
                    continue;
                }
                let at = at.index(stream.len());
                stream[at] = value;
                if let Ok(content) = decompress(codec, &stream, AT, 1000) {
                    prop_assert!(content.len() <= 1000);
                }
            }
        }

        #[test]
        fn any_number_of_streams_is_their_contents_one_after_the_other(
            parts in prop::collection::vec(prop::collection::vec(0_u8..4, 0..300), 1..6)
        ) {
            let whole = parts.concat();
            for codec in built_in() {
                let streams: Vec<u8> = parts.iter().flat_map(|part| packed(codec, part)).collect();
                prop_assert_eq!(decompress(codec, &streams, AT, whole.len()), Ok(whole.clone()));
            }
        }

        #[test]
        fn any_content_round_trips(content: Vec<u8>) {
            for codec in built_in() {
                let stream = packed(codec, &content);
                prop_assert_eq!(decompress(codec, &stream, AT, content.len()), Ok(content.clone()));
            }
        }
    }
}
