// SPDX-License-Identifier: MPL-2.0

//! What an encoder really made: read from its packets and caps, not believed from their flags.
//!
//! H.264 and H.265 are told by their NAL units, VP8, VP9 and AV1 by their frame headers, still images by their name; for any
//! other format the flag is all there is. Only the first bits are read, here: the parser crates that know these formats want to decode whole
//! headers, and the one that knows all five (cros-codecs 0.0.6) panics on damaged ones. Reordering across a random access point (the leading pictures of an open GOP) is
//! seen in the order of the packets, by [`crate::logic::store`].

use gst::prelude::*;

/// An encoded format whose packets can be looked into, as its caps declare it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Format {
    Nal(NalUnits),
    Vp8,
    Vp9,
    Av1,
    /// Each packet is a picture for itself, whatever its flags say (pngenc, pnmenc and webpenc mark all as delta units).
    Image,
    /// Only its flags tell.
    #[default]
    Opaque,
}

/// How NAL units stand in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NalUnits {
    codec: Codec,
    /// Each has its length before it, in so many bytes; `None`: a start code.
    length_bytes: Option<usize>,
    /// Parameter sets may stand among them.
    sets_in_band: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    H264,
    H265,
}

/// What a NAL unit is for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Delimiter,
    ParameterSet,
    /// A slice of a picture at which decoding can begin.
    RandomAccess,
    /// As above, of H.265's clean random access: it resets the decoder only where that begins, else what follows refers to what came
    /// before, and is ordered by it.
    CleanRandomAccess,
    /// A slice of another picture.
    Slice,
    Other,
}

impl NalUnits {
    fn of(codec: Codec, structure: &gst::StructureRef) -> Self {
        let config = codec_data(structure);
        let stream_format = structure.get::<&str>("stream-format").ok();
        let length_bytes = match (stream_format, &config) {
            (Some("byte-stream"), _) | (None, None) => None,
            (_, config) => {
                let at = match codec {
                    Codec::H264 => 4,
                    Codec::H265 => 21,
                };
                let byte = config.as_ref().and_then(|config| config.get(at));
                Some(byte.map_or(4, |byte| usize::from(byte & 3) + 1))
            }
        };
        Self {
            codec,
            length_bytes,
            sets_in_band: length_bytes.is_none() || matches!(stream_format, Some("avc3" | "hev1")),
        }
    }

    fn kind(self, unit: &[u8]) -> Unit {
        let Some(header) = unit.first() else {
            return Unit::Other;
        };
        // nal_unit_type of ITU-T H.264 and H.265, both in table 7-1.
        match self.codec {
            Codec::H264 => match header & 31 {
                1..=4 => Unit::Slice,
                5 => Unit::RandomAccess,
                7 | 8 | 13 => Unit::ParameterSet,
                9 => Unit::Delimiter,
                _ => Unit::Other,
            },
            Codec::H265 => match header >> 1 & 63 {
                // BLA, IDR, and CRA.
                16..=20 => Unit::RandomAccess,
                21 => Unit::CleanRandomAccess,
                0..=31 => Unit::Slice,
                32..=34 => Unit::ParameterSet,
                35 => Unit::Delimiter,
                _ => Unit::Other,
            },
        }
    }

    /// Each NAL unit, without its start code or length.
    fn within(self, packet: &[u8]) -> Vec<&[u8]> {
        match self.length_bytes {
            None => by_start_codes(packet),
            Some(bytes) => {
                let mut rest = Bytes(packet);
                std::iter::from_fn(|| rest.unit(bytes)).collect()
            }
        }
    }

    fn append(self, unit: &[u8], packet: &mut Vec<u8>) {
        match self.length_bytes {
            None => packet.extend([0, 0, 0, 1]),
            Some(bytes) => {
                let length = (unit.len() as u64).to_be_bytes();
                packet.extend(&length[length.len() - bytes..]);
            }
        }
        packet.extend(unit);
    }
}

fn by_start_codes(packet: &[u8]) -> Vec<&[u8]> {
    const START_CODE: [u8; 3] = [0, 0, 1];
    let codes: Vec<usize> = memchr::memmem::find_iter(packet, &START_CODE).collect();
    let ends = codes.iter().copied().skip(1).chain([packet.len()]);
    let units = codes.iter().zip(ends);
    units
        .map(|(code, end)| without_trailing_zeros(&packet[code + START_CODE.len()..end]))
        .collect()
}

/// Zero bytes before the next start code are no part of the unit (it ends with a 1 bit).
fn without_trailing_zeros(unit: &[u8]) -> &[u8] {
    let end = unit.iter().rposition(|&byte| byte != 0);
    &unit[..end.map_or(0, |last| last + 1)]
}

/// Bytes that are read from the first to the last. `None` where they end too soon.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// The most significant byte first.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        let bytes = self.take(bytes)?.iter();
        Some(bytes.fold(0, |sum, &byte| sum << 8 | usize::from(byte)))
    }

    /// What has its length before it, in so many bytes.
    fn unit(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(bytes)?;
        self.take(length)
    }

    /// A number of AV1, if it is one: none is larger, whatever a machine can hold (4.10.5).
    fn leb128(&mut self) -> Option<u32> {
        let mut value = 0;
        for at in 0..8 {
            let byte = self.number(1)? as u64;
            value |= (byte & 127) << (7 * at);
            if byte & 128 == 0 {
                return u32::try_from(value).ok();
            }
        }
        None
    }
}

impl Format {
    pub(crate) fn of(caps: &gst::CapsRef) -> Self {
        caps.structure(0).map_or(Self::Opaque, Self::of_structure)
    }

    /// Nothing that these caps allow can be looked into.
    pub(crate) fn is_opaque(caps: &gst::CapsRef) -> bool {
        caps.iter()
            .all(|structure| Self::of_structure(structure) == Self::Opaque)
    }

    fn of_structure(structure: &gst::StructureRef) -> Self {
        match structure.name().as_str() {
            "video/x-h264" => Self::Nal(NalUnits::of(Codec::H264, structure)),
            "video/x-h265" => Self::Nal(NalUnits::of(Codec::H265, structure)),
            "video/x-vp8" => Self::Vp8,
            "video/x-vp9" => Self::Vp9,
            "video/x-av1" if !matches!(structure.get("stream-format"), Ok("annexb")) => Self::Av1,
            name if name.starts_with("image/") => Self::Image,
            _ => Self::Opaque,
        }
    }

    /// Where parameter sets may stand in band.
    fn with_sets_in_band(self) -> Option<NalUnits> {
        match self {
            Self::Nal(units) if units.sets_in_band => Some(units),
            _ => None,
        }
    }

    /// Whether decoding can begin with this packet; `None` where that can't be told from it. A clean random access of H.265 counts only
    /// as the first packet `of_all` that its encoder made.
    pub(crate) fn is_random_access(self, packet: &[u8], of_all: bool) -> Option<bool> {
        match self {
            Self::Nal(units) => {
                let mut kinds = units.within(packet).into_iter().map(|it| units.kind(it));
                kinds.find_map(|kind| match kind {
                    Unit::RandomAccess => Some(true),
                    Unit::CleanRandomAccess => Some(of_all),
                    Unit::Slice => Some(false),
                    _ => None,
                })
            }
            // RFC 6386, 9.1: the frame tag's first bit is 0, and a start code follows the tag.
            Self::Vp8 => {
                let is_key = packet.first()? & 1 == 0;
                Some(is_key && packet.get(3..6) == Some(&[0x9d, 0x01, 0x2a]))
            }
            Self::Vp9 => vp9_key_frame(packet),
            Self::Av1 => av1_key_frame(packet),
            Self::Image => Some(true),
            Self::Opaque => None,
        }
    }

    /// The parameter sets that stand in the packet.
    pub(crate) fn parameter_sets(self, packet: &[u8]) -> Vec<Vec<u8>> {
        let Self::Nal(units) = self else {
            return Vec::new();
        };
        let mut sets = units.within(packet);
        sets.retain(|unit| units.kind(unit) == Unit::ParameterSet);
        sets.into_iter().map(<[u8]>::to_vec).collect()
    }

    /// The packet whose picture resets the decoder where it only would as the first of all: a clean random access becomes a broken link
    /// without leading pictures (BLA_N_LP). `None`: it is right as it is.
    fn with_broken_link(self, packet: &[u8]) -> Option<Vec<u8>> {
        const BLA_N_LP: u8 = 18;
        let Self::Nal(units) = self else { return None };
        let mut broken: Option<Vec<u8>> = None;
        for unit in units.within(packet) {
            if units.kind(unit) == Unit::CleanRandomAccess {
                let at = end_within(packet, unit) - unit.len();
                let header = &mut broken.get_or_insert_with(|| packet.to_vec())[at];
                *header = *header & !(63 << 1) | BLA_N_LP << 1;
            }
        }
        broken
    }

    /// The packet with parameter sets before its picture; `None` where the format keeps them elsewhere.
    pub(crate) fn with_parameter_sets(self, packet: &[u8], sets: &[Vec<u8>]) -> Option<Vec<u8>> {
        let units = self.with_sets_in_band()?;
        let all = units.within(packet).into_iter();
        // An access unit delimiter is always first.
        let delimiters = all.take_while(|unit| units.kind(unit) == Unit::Delimiter);
        let at = delimiters.last().map_or(0, |unit| end_within(packet, unit));
        let mut whole = packet[..at].to_vec();
        for set in sets {
            units.append(set, &mut whole);
        }
        whole.extend(&packet[at..]);
        Some(whole)
    }

    /// The parameter sets of an `avcC` or `hvcC` record (ISO/IEC 14496-15), those that come before it ends.
    fn configured_sets(self, config: &[u8]) -> Vec<Vec<u8>> {
        let Self::Nal(units) = self else {
            return Vec::new();
        };
        let is_avc = units.codec == Codec::H264;
        let mut sets = Vec::new();
        let mut read = |mut record: Bytes<'_>| -> Option<()> {
            record.take(if is_avc { 5 } else { 22 })?;
            let kinds = if is_avc { 2 } else { record.number(1)? };
            for kind in 0..kinds {
                let count = match (is_avc, kind) {
                    (true, 0) => record.number(1)? & 31,
                    (true, _) => record.number(1)?,
                    (false, _) => record.take(1).and_then(|_| record.number(2))?,
                };
                for _ in 0..count {
                    sets.push(record.unit(2)?.to_vec());
                }
            }
            Some(())
        };
        let _ = read(Bytes(config));
        sets
    }
}

fn codec_data(structure: &gst::StructureRef) -> Option<gst::MappedBuffer<gst::buffer::Readable>> {
    let config = structure.get::<gst::Buffer>("codec_data").ok()?;
    config.into_mapped_buffer_readable().ok()
}

/// Where a part of a packet ends in it.
fn end_within(packet: &[u8], part: &[u8]) -> usize {
    part.as_ptr_range().end as usize - packet.as_ptr() as usize
}

/// Whether the first picture of the packet is a key frame (VP9 bitstream specification, 6.2).
fn vp9_key_frame(packet: &[u8]) -> Option<bool> {
    let mut bits = packet
        .iter()
        .take(2)
        .flat_map(|&byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let frame_marker = (bits.next()?, bits.next()?);
    let profile = (bits.next()?, bits.next()?);
    if profile == (1, 1) {
        bits.next()?;
    }
    let show_existing_frame = bits.next()? == 1;
    let is_key = bits.next()? == 0;
    Some(frame_marker == (1, 0) && !show_existing_frame && is_key)
}

/// Whether the first picture of a temporal unit is a key frame that comes with its sequence header (AV1 bitstream
/// specification, 5.3 to 5.9).
fn av1_key_frame(packet: &[u8]) -> Option<bool> {
    const SEQUENCE_HEADER: usize = 1;
    const FRAME_HEADER: usize = 3;
    const FRAME: usize = 6;
    let mut packet = Bytes(packet);
    let mut has_header = false;
    // Every picture of a still image is a key frame, and doesn't say so.
    let mut is_still = false;
    loop {
        let header = packet.number(1)?;
        let (kind, has_extension, has_size) = (header >> 3 & 15, header & 4 != 0, header & 2 != 0);
        packet.take(usize::from(has_extension))?;
        let size = if has_size {
            usize::try_from(packet.leb128()?).ok()?
        } else {
            packet.0.len()
        };
        let content = packet.take(size)?;
        match kind {
            SEQUENCE_HEADER => {
                has_header = true;
                is_still = content.first()? & 0b000_01000 != 0;
            }
            FRAME_HEADER | FRAME => {
                // show_existing_frame, frame_type: 0, 0 is a key frame.
                let is_key = is_still || content.first()? >> 5 == 0;
                return Some(is_key && has_header);
            }
            _ => (),
        }
    }
}

/// The alignment that the caps declare, where each packet is then a part of a frame (a NAL unit, an OBU, a stripe). `None`: packets may
/// be whole frames, or the caps say nothing of it.
pub(crate) fn alignment_of_parts(caps: &gst::CapsRef) -> Option<String> {
    let alignment_of_parts = |format: &gst::StructureRef| {
        let mut whole = vec!["au", "tu", "super-frame"];
        // A frame that isn't shown comes by itself.
        if !matches!(format.name().as_str(), "video/x-vp9" | "video/x-av1") {
            whole.push("frame");
        }
        let whole = gst::Structure::builder(format.name())
            .field("alignment", gst::List::new(whole))
            .build();
        if format.can_intersect(&whole) {
            return None;
        }
        let mut first = format.to_owned();
        first.fixate_field("alignment");
        first.get("alignment").ok()
    };
    let alignments: Option<Vec<String>> = caps.iter().map(alignment_of_parts).collect();
    alignments?.into_iter().next()
}

/// How the caps of one chunk stand to those that were sent before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Described {
    /// As before: nothing is to be sent.
    Same,
    /// Only parameter sets differ, and they go in band: these before the chunk's first picture, unless they are there.
    InBand(Vec<Vec<u8>>),
    /// It is another stream. Says what differs.
    Differently(String),
}

/// The parameter sets of `codec_data`, where the format carries them in band as well.
pub(crate) fn sets_for_band(caps: &gst::CapsRef) -> Vec<Vec<u8>> {
    let format = Format::of(caps);
    let config = caps.structure(0).and_then(codec_data);
    let config = config.filter(|_| format.with_sets_in_band().is_some());
    config.map_or_else(Vec::new, |config| format.configured_sets(&config))
}

/// Fields that say no more than the parameter sets do.
const FROM_PARAMETER_SETS: &[&str] = &["codec_data", "level", "tier", "profile"];

pub(crate) fn compare(was: &gst::CapsRef, is: &gst::CapsRef) -> Described {
    if was == is {
        return Described::Same;
    }
    let (Some(old), Some(new)) = (was.structure(0), is.structure(0)) else {
        return Described::Differently(format!("{was} became {is}"));
    };
    let differing = differing_fields(old, new);
    let in_sets = |field: &String| FROM_PARAMETER_SETS.contains(&field.as_str());
    let in_band = Format::of(is).with_sets_in_band().is_some();
    if old.name() == new.name() && in_band && differing.iter().all(in_sets) {
        return Described::InBand(sets_for_band(is));
    }
    let value = |structure: &gst::StructureRef, field: &str| {
        let value = structure.value(field).ok();
        let text = value.and_then(|value| value.serialize().ok());
        text.map_or("nothing".to_string(), Into::into)
    };
    let renamed = old.name() != new.name();
    let name = renamed.then(|| format!("{} became {}", old.name(), new.name()));
    let fields = differing.iter().map(|field| {
        let (was, is) = (value(old, field), value(new, field));
        format!("{field} was {was}, is {is}")
    });
    let differences: Vec<String> = name.into_iter().chain(fields).collect();
    Described::Differently(differences.join("; "))
}

fn differing_fields(old: &gst::StructureRef, new: &gst::StructureRef) -> Vec<String> {
    let fields: std::collections::BTreeSet<_> = old.fields().chain(new.fields()).collect();
    let same = |field: &str| match (old.value(field), new.value(field)) {
        (Ok(old), Ok(new)) => old.compare(new) == Some(std::cmp::Ordering::Equal),
        _ => false,
    };
    let differing = fields.into_iter().filter(|field| !same(field));
    differing.map(ToString::to_string).collect()
}

/// The packet as the first of a chunk: it resets the decoder, and has the parameter sets with it.
pub(crate) fn as_first(buffer: gst::Buffer, format: Format, sets: &[Vec<u8>]) -> gst::Buffer {
    let whole = buffer.map_readable().ok().and_then(|packet| {
        let broken = format.with_broken_link(&packet);
        let packet = broken.as_deref().unwrap_or(&packet);
        let lacks = !sets.is_empty() && format.parameter_sets(packet).is_empty();
        let with_sets = lacks.then(|| format.with_parameter_sets(packet, sets));
        with_sets.flatten().or(broken)
    });
    let Some(whole) = whole else { return buffer };
    let mut whole = gst::Buffer::from_mut_slice(whole);
    let parts =
        gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META;
    // PANIC: the buffer is new.
    let copied = buffer.copy_into(whole.get_mut().expect("own buffer"), parts, ..);
    if copied.is_ok() { whole } else { buffer }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h264(stream_format: &str) -> gst::Caps {
        gst::init().unwrap();
        gst::Caps::builder("video/x-h264")
            .field("stream-format", stream_format)
            .build()
    }

    fn with_config(caps: &gst::Caps, config: &[u8]) -> gst::Caps {
        let mut caps = caps.clone();
        caps.make_mut()
            .set("codec_data", gst::Buffer::from_slice(config.to_vec()));
        caps
    }

    const SPS: &[u8] = &[0x67, 1, 2];
    const PPS: &[u8] = &[0x68, 3];

    /// An `avcC` record with 4 bytes of length, and these sets.
    fn avcc(sps: &[u8], pps: &[u8]) -> Vec<u8> {
        let mut record = vec![1, 0x64, 0, 30, 0xff, 0xe1, 0, sps.len() as u8];
        record.extend(sps);
        record.extend([1, 0, pps.len() as u8]);
        record.extend(pps);
        record
    }

    #[test]
    fn an_h264_picture_is_a_random_access_point_if_it_is_an_idr() {
        let format = Format::of(&h264("byte-stream"));
        let idr = [0, 0, 0, 1, 0x09, 0x10, 0, 0, 1, 0x06, 5, 0, 0, 1, 0x65, 9];
        let recovery_point = [0, 0, 0, 1, 0x06, 6, 1, 0, 0, 1, 0x41, 9];
        assert_eq!(format.is_random_access(&idr, false), Some(true));
        assert_eq!(format.is_random_access(&recovery_point, false), Some(false));
        assert_eq!(format.is_random_access(b"no start code", false), None);
        let avc = Format::of(&with_config(&h264("avc"), &avcc(SPS, PPS)));
        assert_eq!(
            avc.is_random_access(&[0, 0, 0, 2, 0x65, 9], false),
            Some(true)
        );
        assert_eq!(
            avc.is_random_access(&[0, 0, 0, 2, 0x41, 9], false),
            Some(false)
        );
        assert_eq!(avc.is_random_access(&[0, 0, 0, 200, 0x65], false), None);
    }

    #[test]
    fn an_h265_picture_is_a_random_access_point_if_it_is_an_irap() {
        gst::init().unwrap();
        let caps = gst::Caps::builder("video/x-h265")
            .field("stream-format", "byte-stream")
            .build();
        let format = Format::of(&caps);
        for (kind, expected) in [(19, true), (20, true), (21, false), (1, false), (8, false)] {
            let packet = [0, 0, 1, 35 << 1, 1, 0x50, 0, 0, 1, kind << 1, 1, 9];
            assert_eq!(
                format.is_random_access(&packet, false),
                Some(expected),
                "{kind}"
            );
        }
    }

    #[test]
    fn a_vp8_or_vp9_picture_is_a_random_access_point_if_it_is_a_key_frame() {
        let vp8 = |packet: &[u8]| Format::Vp8.is_random_access(packet, false);
        assert_eq!(vp8(&[0x50, 1, 0, 0x9d, 0x01, 0x2a, 0, 0]), Some(true));
        assert_eq!(vp8(&[0x51, 1, 0, 0x9d, 0x01, 0x2a, 0, 0]), Some(false));
        assert_eq!(vp8(&[]), None);
        let vp9 = |packet: &[u8]| Format::Vp9.is_random_access(packet, false);
        assert_eq!(vp9(&[0b1000_0010, 0x49]), Some(true));
        assert_eq!(vp9(&[0b1000_0110, 0x49]), Some(false));
        assert_eq!(vp9(&[0b1000_1000, 0x49]), Some(false));
        assert_eq!(vp9(&[0b1011_0001, 0x49]), Some(true));
        assert_eq!(vp9(&[]), None);
    }

    #[test]
    fn an_av1_picture_is_a_random_access_point_if_it_is_a_key_frame_with_its_header() {
        let delimiter = [0x12, 0];
        let header = [0x0a, 2, 0, 0];
        let key = [0x32, 2, 0b0001_0000, 0];
        let inter = [0x32, 2, 0b0011_0000, 0];
        let format = Format::Av1;
        let whole = |parts: &[&[u8]]| format.is_random_access(&parts.concat(), false);
        assert_eq!(whole(&[&delimiter, &header, &key]), Some(true));
        assert_eq!(whole(&[&delimiter, &key]), Some(false));
        assert_eq!(whole(&[&delimiter, &header, &inter]), Some(false));
        assert_eq!(whole(&[&delimiter]), None);
        assert_eq!(whole(&[&delimiter, &[0x32, 200, 0]]), None);
    }

    #[test]
    fn what_is_looked_into_is_known_from_the_caps() {
        gst::init().unwrap();
        for (caps, is_opaque) in [
            ("video/x-h264,stream-format={avc,byte-stream}", false),
            ("video/x-theora; video/x-vp8", false),
            ("image/x-anything", false),
            ("video/x-theora; video/mpeg,mpegversion=4", true),
            ("video/x-av1,stream-format=annexb", true),
            ("ANY", true),
        ] {
            let caps: gst::Caps = caps.parse().unwrap();
            assert_eq!(Format::is_opaque(&caps), is_opaque, "{caps}");
        }
    }

    #[test]
    fn a_size_of_av1_is_a_number_of_32_bits() {
        let read = |bytes: &[u8]| Bytes(bytes).leb128();
        assert_eq!(read(&[0x7f]), Some(127));
        assert_eq!(read(&[0xe5, 0x8e, 0x26]), Some(624_485));
        // Zeros may follow.
        assert_eq!(
            read(&[0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0]),
            Some(1)
        );
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Some(u32::MAX));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x1f]), None);
        assert_eq!(
            read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            None
        );
        assert_eq!(read(&[0x80; 9]), None);
        assert_eq!(read(&[0x80]), None);
    }

    #[test]
    fn caps_may_say_that_packets_are_parts_of_frames() {
        gst::init().unwrap();
        for (caps, expected) in [
            ("video/x-h264", None),
            ("video/x-h264,alignment=au", None),
            ("video/x-h264,alignment={au,nal}", None),
            ("video/x-h264,alignment=nal", Some("nal")),
            ("video/x-h265,alignment={nal}", Some("nal")),
            (
                "video/x-h264,alignment=nal; video/x-h265,alignment=au",
                None,
            ),
            ("video/x-h264,alignment=nal; video/x-vp8", None),
            ("video/x-av1,alignment=tu", None),
            ("video/x-av1,alignment=frame", Some("frame")),
            ("video/x-av1,alignment={obu,frame}", Some("obu")),
            ("video/x-vp9,alignment=super-frame", None),
            ("video/x-vp9,alignment=frame", Some("frame")),
            ("image/x-jpc,alignment=frame", None),
            ("image/x-jpc,alignment=stripe", Some("stripe")),
            ("ANY", None),
            ("EMPTY", None),
        ] {
            let parsed: gst::Caps = caps.parse().unwrap();
            assert_eq!(alignment_of_parts(&parsed).as_deref(), expected, "{caps}");
        }
    }

    #[test]
    fn a_clean_random_access_becomes_a_broken_link() {
        gst::init().unwrap();
        let caps: gst::Caps = "video/x-h265,stream-format=byte-stream".parse().unwrap();
        let format = Format::of(&caps);
        // Delimiter, then two slices of layer 0, temporal id 1.
        let cra = [
            0, 0, 1, 0x46, 1, 0x50, 0, 0, 1, 0x2a, 1, 7, 0, 0, 1, 0x2a, 1, 8,
        ];
        assert_eq!(format.is_random_access(&cra, true), Some(true));
        assert_eq!(format.is_random_access(&cra, false), Some(false));
        let broken = format.with_broken_link(&cra).unwrap();
        let bla = [
            0, 0, 1, 0x46, 1, 0x50, 0, 0, 1, 0x24, 1, 7, 0, 0, 1, 0x24, 1, 8,
        ];
        assert_eq!(broken, bla);
        assert_eq!(format.with_broken_link(&bla), None);
        assert_eq!(format.is_random_access(&bla, false), Some(true));
    }

    #[test]
    fn parameter_sets_go_after_the_delimiter() {
        let format = Format::of(&h264("byte-stream"));
        let sets = [SPS.to_vec(), PPS.to_vec()];
        let packet = [0, 0, 0, 1, 0x09, 0x10, 0, 0, 1, 0x65, 9, 9];
        let whole = format.with_parameter_sets(&packet, &sets).unwrap();
        assert_eq!(format.parameter_sets(&whole), sets);
        assert_eq!(whole[..6], packet[..6]);
        assert!(whole.ends_with(&packet[6..]));
        let whole = format.with_parameter_sets(&packet[6..], &sets).unwrap();
        assert_eq!(whole[..7], [0, 0, 0, 1, 0x67, 1, 2]);
        let avc = Format::of(&with_config(&h264("avc"), &avcc(SPS, PPS)));
        assert_eq!(avc.with_parameter_sets(&packet, &sets), None);
    }

    #[test]
    fn other_parameter_sets_go_in_band_where_the_format_allows_it() {
        let old = with_config(&h264("avc3"), &avcc(SPS, PPS));
        let new = with_config(&h264("avc3"), &avcc(&[0x67, 7], PPS));
        assert_eq!(compare(&old, &old), Described::Same);
        let sets = vec![vec![0x67, 7], PPS.to_vec()];
        assert_eq!(compare(&old, &new), Described::InBand(sets));
        let old = with_config(&h264("avc"), &avcc(SPS, PPS));
        let new = with_config(&h264("avc"), &avcc(&[0x67, 7], PPS));
        let Described::Differently(what) = compare(&old, &new) else {
            panic!("avc can't carry them");
        };
        assert!(what.starts_with("codec_data was "), "{what}");
        let mut level = h264("byte-stream");
        level.make_mut().set("level", "4");
        assert_eq!(
            compare(&h264("byte-stream"), &level),
            Described::InBand(vec![])
        );
        let mut size = h264("byte-stream");
        size.make_mut().set("width", 320);
        let Described::Differently(what) = compare(&h264("byte-stream"), &size) else {
            panic!("another size is another stream");
        };
        assert!(what.contains("width was nothing, is 320"), "{what}");
    }

    #[test]
    fn garbage_is_no_random_access_point_and_no_panic() {
        gst::init().unwrap();
        let mut garbage = vec![0u8; 400];
        for seed in 0..2000_u32 {
            let mut state = seed.wrapping_mul(2_654_435_761).max(1);
            for byte in &mut garbage {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                *byte = (state >> 24) as u8;
            }
            for name in ["h264", "h265", "vp8", "vp9", "av1"] {
                let caps = gst::Caps::new_empty_simple(format!("video/x-{name}"));
                let format = Format::of(&caps);
                let _ = format.is_random_access(&garbage, false);
                let _ = format.configured_sets(&garbage);
                let _ = format.with_parameter_sets(&garbage, &[vec![1]]);
            }
        }
    }
}
