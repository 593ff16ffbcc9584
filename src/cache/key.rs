// SPDX-License-Identifier: MPL-2.0

//! The key of a chunk: a digest of everything that determines what an encoder makes of it.
//!
//! XXH3 with 128 bits reads as fast as memory does, and among 10¹² chunks the odds that any two share a key are below 1 to 10¹⁴.
//! It isn't a cryptographic hash: who builds two inputs with one key gets one in place of the other, in their own cache, and
//! gains nothing. What can't be hashed for certain (metas, objects, files that an encoder reads) is refused: such a chunk is
//! encoded every time.

use super::recording;
use gst::prelude::*;
use gst_video::VideoFrameExt;
use gst_video::prelude::*;
use std::fmt;
use std::ops::ControlFlow;
use twox_hash::xxhash3_128::Hasher;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 16]);

impl Key {
    pub(super) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unhashable {
    /// The frame's pixels can't be read as the caps say.
    Pixels(&'static str),
    /// The frame carries something that encoders may look at.
    Meta(String),
    /// The element has no factory, so nothing says what it is.
    Factory(String),
    Property {
        of: String,
        name: String,
        why: &'static str,
    },
}

impl fmt::Display for Unhashable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unhashable::Pixels(why) => write!(f, "frames can't be compared: {why}"),
            Unhashable::Meta(api) => write!(f, "frames carry a {api}"),
            Unhashable::Factory(element) => write!(f, "{element} has no factory"),
            Unhashable::Property { of, name, why } => write!(f, "property {name} of {of} {why}"),
        }
    }
}

/// The pixels and flags of one frame. A frame is hashed once, however many chunks it is fed to, and best while its pixels are still
/// in the processor's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Picture([u8; 16]);

impl Picture {
    pub(crate) fn of(
        buffer: &gst::BufferRef,
        info: &gst_video::VideoInfo,
    ) -> Result<Self, Unhashable> {
        let mut hasher = KeyHasher(Hasher::new());
        hash_pixels(&mut hasher, buffer, info)?;
        Ok(Self(hasher.finish().0))
    }
}

/// Takes the parts of a key. Each has a kind and a label, and its length stands before it, so that no two sequences of parts are
/// the same bytes. After an error it is of no use.
#[derive(Clone)]
pub(crate) struct KeyHasher(Hasher);

impl Default for KeyHasher {
    /// Chunks of another version of this plugin, or in another format, are other chunks.
    fn default() -> Self {
        let mut hasher = Self(Hasher::new());
        hasher.text(crate::PLUGIN_NAME, env!("CARGO_PKG_VERSION"));
        hasher.number("format", recording::VERSION.into());
        hasher
    }
}

impl KeyHasher {
    pub(crate) fn text(&mut self, label: &str, text: &str) {
        self.part(b't', label, text.as_bytes());
    }

    pub(crate) fn number(&mut self, label: &str, number: u64) {
        self.part(b'n', label, &number.to_le_bytes());
    }

    /// A frame that the encoder is fed, at this time after the first.
    pub(crate) fn frame(
        &mut self,
        picture: &Picture,
        time: gst::ClockTime,
        duration: Option<gst::ClockTime>,
    ) {
        self.part(b'd', "picture", &picture.0);
        self.number("time", time.nseconds());
        if let Some(duration) = duration {
            self.number("duration", duration.nseconds());
        }
    }

    pub(crate) fn finish(self) -> Key {
        Key(self.0.finish_128().to_be_bytes())
    }

    fn part(&mut self, kind: u8, label: &str, content: &[u8]) {
        self.open(kind, label, content.len());
        self.0.write(content);
    }

    /// Exactly `length` bytes come next.
    fn open(&mut self, kind: u8, label: &str, length: usize) {
        self.0.write(&[kind]);
        self.0.write(&(label.len() as u64).to_le_bytes());
        self.0.write(label.as_bytes());
        self.0.write(&(length as u64).to_le_bytes());
    }
}

/// What an encoder doesn't look at: after an edit the same frame may come with others of these.
const FLAGS_LEFT_OUT: gst::BufferFlags = gst::BufferFlags::DISCONT
    .union(gst::BufferFlags::RESYNC)
    .union(gst::BufferFlags::TAG_MEMORY)
    .union(gst::BufferFlags::LIVE)
    .union(gst::BufferFlags::SYNC_AFTER);

/// The visible pixels and the flags. Offsets of buffers are left out: an edit before the frame changes them, not the frame.
pub(crate) fn hash_pixels(
    hasher: &mut KeyHasher,
    buffer: &gst::BufferRef,
    info: &gst_video::VideoInfo,
) -> Result<(), Unhashable> {
    refuse_metas(buffer)?;
    let flags = buffer.flags() - FLAGS_LEFT_OUT;
    hasher.number("flags", flags.bits().into());
    hasher.number("video flags", buffer.video_flags().bits().into());
    // (Without a valid format there is no `format_info`.)
    if !info.is_valid() || info.format_info().is_tiled() || info.format_info().has_palette() {
        return Err(Unhashable::Pixels("their format isn't laid out in rows"));
    }
    // GStreamer takes it for a mistake of ours to map a picture that is smaller than its caps.
    let is_there = |meta: gst::MetaRef<'_, gst_video::VideoMeta>| {
        meta.width() >= info.width() && meta.height() >= info.height()
    };
    if !buffer.meta::<gst_video::VideoMeta>().is_none_or(is_there) {
        return Err(Unhashable::Pixels("they are fewer than the caps say"));
    }
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info)
        .map_err(|_| Unhashable::Pixels("they can't be mapped"))?;
    let is = |info: &gst_video::VideoInfo| (info.format(), info.width(), info.height());
    if is(frame.info()) != is(info) {
        return Err(Unhashable::Pixels("they aren't what the caps say"));
    }
    hasher.text("format", info.format().to_str());
    hasher.number("width", info.width().into());
    hasher.number("height", info.field_height().into());
    // Of the buffer and of the meta.
    hasher.number("frame flags", frame.flags().bits().into());
    for plane in 0..frame.n_planes() {
        hash_plane(hasher, &frame, plane)?;
    }
    Ok(())
}

/// Encoders see captions, HDR metadata, regions of interest. Only metas that say where the pixels are mean nothing beside them.
fn refuse_metas(buffer: &gst::BufferRef) -> Result<(), Unhashable> {
    let mut views = 0;
    let mut refused = None;
    buffer.foreach_meta(|meta| {
        let api = meta.api();
        if api == gst_video::VideoMeta::meta_api() {
            views += 1;
        } else if api != gst::ParentBufferMeta::meta_api() {
            refused = Some(Unhashable::Meta(api.name().to_string()));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    if views > 1 {
        return Err(Unhashable::Pixels("there are several in a buffer"));
    }
    refused.map_or(Ok(()), Err)
}

/// What of a plane is seen, in bytes.
struct Visible {
    rows: usize,
    row: usize,
}

impl Visible {
    fn new(info: &gst_video::VideoInfo, plane: u32) -> Result<Self, Unhashable> {
        let unknown = Unhashable::Pixels("the layout of their format isn't known");
        let format = info.format_info();
        let mut visible = Self { rows: 0, row: 0 };
        let components = format.component(plane).into_iter();
        for component in components.filter_map(|component| u8::try_from(component).ok()) {
            // Alternating fields come in buffers of their own, and `comp_height` is that of both.
            let rows = format.scale_height(component, info.field_height());
            // 0 in formats that pack pixels across bytes (v210).
            let row = info.comp_width(component) as usize * pixel_stride(info, component);
            visible.rows = visible.rows.max(rows as usize);
            visible.row = if row == 0 {
                whole_row(info, plane).ok_or_else(|| unknown.clone())?
            } else {
                visible.row.max(row)
            };
        }
        match visible {
            Self { rows: 0, .. } | Self { row: 0, .. } => Err(unknown),
            visible => Ok(visible),
        }
    }
}

fn pixel_stride(info: &gst_video::VideoInfo, component: u8) -> usize {
    usize::try_from(info.comp_pstride(component)).unwrap_or(0)
}

/// How long rows are where nothing is added to them.
fn whole_row(info: &gst_video::VideoInfo, plane: u32) -> Option<usize> {
    let plain = gst_video::VideoInfo::builder(info.format(), info.width(), info.height());
    let strides = plain.build().ok()?;
    let stride = *strides.stride().get(plane as usize)?;
    usize::try_from(stride).ok()
}

const BEYOND_MEMORY: Unhashable = Unhashable::Pixels("they end beyond their memory");

/// Leaves out what is added to rows: nobody sees it, and it may never have been written.
fn hash_plane(
    hasher: &mut KeyHasher,
    frame: &gst_video::VideoFrameRef<&gst::BufferRef>,
    plane: u32,
) -> Result<(), Unhashable> {
    let Visible { rows, row } = Visible::new(frame.info(), plane)?;
    let stride = frame.plane_stride()[plane as usize];
    let stride = usize::try_from(stride).ok().filter(|&stride| stride >= row);
    let stride = stride.ok_or(Unhashable::Pixels("their rows overlap or run backwards"))?;
    let length = (rows - 1).checked_mul(stride);
    let length = length.and_then(|length| length.checked_add(row));
    let seen = seen(frame, plane, length.ok_or(BEYOND_MEMORY)?)?;
    hasher.open(b'p', "plane", rows * row);
    if row == stride {
        hasher.0.write(seen);
    } else {
        for row in seen.chunks(stride).map(|chunk| &chunk[..row]) {
            hasher.0.write(row);
        }
    }
    Ok(())
}

/// The plane from its first visible byte to its last. `plane_data` takes the stride times the height: beyond the end of the
/// buffer for alternating fields, and where a meta puts the first row further in (videocrop).
fn seen<'a>(
    frame: &'a gst_video::VideoFrameRef<&gst::BufferRef>,
    plane: u32,
    length: usize,
) -> Result<&'a [u8], Unhashable> {
    let buffer = frame.buffer();
    let start = frame.plane_offset()[plane as usize];
    let end = start.checked_add(length);
    let end = end.filter(|&end| end <= buffer.size());
    let mut is_there = end.is_some();
    if let (Some(end), true) = (end, buffer.meta::<gst_video::VideoMeta>().is_some()) {
        // Each plane is mapped with the memory that it begins in.
        let memories = buffer.find_memory(start..end);
        is_there = memories.is_some_and(|(memories, _)| memories.len() == 1);
    }
    // SAFETY: the frame is mapped as long as it is borrowed.
    let data = unsafe { (*frame.as_ptr()).data[plane as usize].cast::<u8>() };
    if !is_there || data.is_null() {
        return Err(BEYOND_MEMORY);
    }
    // SAFETY: `data` is where the plane begins in the mapped frame, which is borrowed as long as the slice, and the memory mapped
    // there has these bytes, as looked up above.
    Ok(unsafe { std::slice::from_raw_parts(data, length) })
}

/// The encoder, or all elements of a bin with how they are linked: what they are and how they are set. Ask before it runs: some
/// encoders write into their own properties then.
pub(crate) fn encoder_identity(
    hasher: &mut KeyHasher,
    encoder: &gst::Element,
) -> Result<(), Unhashable> {
    hasher.text("GStreamer", &gst::version_string());
    let mut elements = Vec::new();
    collect(encoder, &mut elements);
    for element in &elements {
        hash_element(hasher, element)?;
        for pad in element.pads() {
            hasher.text("pad", &pad_name(&pad));
            hasher.number("offset", pad.offset() as u64);
            hash_properties(hasher, pad.upcast_ref(), &factory_name(element))?;
            if let Some(peer) = pad.peer() {
                hash_link(hasher, &peer, &elements);
            }
        }
    }
    Ok(())
}

/// In the order in which they were added; names have numbers that count what the process made before.
fn collect(element: &gst::Element, into: &mut Vec<gst::Element>) {
    into.push(element.clone());
    if let Some(bin) = element.downcast_ref::<gst::Bin>() {
        for child in bin.children().iter().rev() {
            collect(child, into);
        }
    }
}

fn factory_name(element: &gst::Element) -> String {
    let factory = element.factory();
    factory.map_or_else(|| element.type_().name().into(), |it| it.name().into())
}

fn hash_element(hasher: &mut KeyHasher, element: &gst::Element) -> Result<(), Unhashable> {
    let factory = element.factory();
    let factory = factory.ok_or_else(|| Unhashable::Factory(factory_name(element)))?;
    hasher.text("factory", &factory.name());
    // An application may register an element of its own without one.
    if let Some(plugin) = factory.plugin() {
        hasher.text("plugin", &plugin.plugin_name());
        hasher.text("version", &plugin.version());
    }
    hash_properties(hasher, element.upcast_ref(), &factory.name())
}

/// The name by which its element knows a pad. Those of ghost pads may have numbers that count what the process made before.
fn pad_name(pad: &gst::Pad) -> String {
    match pad.parent_element().filter(|_| pad.is::<gst::GhostPad>()) {
        Some(bin) => {
            let at = bin.pads().iter().position(|other| other == pad);
            format!("{:?} {at:?}", pad.direction())
        }
        None => pad.name().into(),
    }
}

/// A pad inside a bin that is linked to outside it is linked to a part of the ghost pad.
fn hash_link(hasher: &mut KeyHasher, peer: &gst::Pad, elements: &[gst::Element]) {
    let parent = peer.parent();
    let ghost = parent.and_then(|parent| parent.downcast::<gst::GhostPad>().ok());
    let pad = ghost.as_ref().map_or(peer, |ghost| ghost.upcast_ref());
    let element = pad.parent_element();
    let at = elements.iter().position(|it| Some(it) == element.as_ref());
    // Nothing else around the encoder is a part of it.
    if let Some(at) = at {
        hasher.text("linked", if ghost.is_some() { "out" } else { "across" });
        hasher.number("to", at as u64);
        hasher.text("its pad", &pad_name(pad));
    }
}

/// Those of the elements and pads themselves; what GStreamer has for all of them names or places them.
fn hash_properties(
    hasher: &mut KeyHasher,
    object: &glib::Object,
    of: &str,
) -> Result<(), Unhashable> {
    let refused = |spec: &glib::ParamSpec, why| Unhashable::Property {
        of: of.to_string(),
        name: spec.name().to_string(),
        why,
    };
    let common = [gst::Object::static_type(), gst::Pad::static_type()];
    let mut specs = object.list_properties().to_vec();
    specs.retain(|spec| {
        spec.flags().contains(glib::ParamFlags::WRITABLE) && !common.contains(&spec.owner_type())
    });
    specs.sort_by_key(|spec| spec.name());
    for spec in specs {
        if !spec.flags().contains(glib::ParamFlags::READABLE) {
            return Err(refused(&spec, "can't be read"));
        }
        let value = object.property_value(spec.name());
        let text = text_of(&value).ok_or_else(|| refused(&spec, "has no text"))?;
        if let Some(why) = reason_to_refuse(&spec, &value) {
            return Err(refused(&spec, why));
        }
        hasher.text("property", spec.name());
        hasher.text("value", &text);
    }
    Ok(())
}

/// The value as text that is another one for another value, and tells no addresses.
fn text_of(value: &glib::Value) -> Option<String> {
    let kind = value.type_();
    if is_null(value) {
        return Some("null".to_string());
    }
    if let Ok(text) = value.get::<String>() {
        return Some(format!("\"{text}\""));
    }
    if kind.is_a(glib::Type::FLAGS) {
        // As names, unknown ones would be lost.
        return Some(
            value
                .transform::<u32>()
                .ok()?
                .get::<u32>()
                .ok()?
                .to_string(),
        );
    }
    let by_address = [
        glib::Type::OBJECT,
        glib::Type::INTERFACE,
        glib::Type::POINTER,
        glib::Type::PARAM_SPEC,
    ];
    if by_address.iter().any(|other| kind.is_a(*other)) {
        return None;
    }
    value.serialize().ok().map(Into::into)
}

/// Whether it is a string, object or boxed value that isn't there.
fn is_null(value: &glib::Value) -> bool {
    use glib::gobject_ffi::{g_value_fits_pointer, g_value_peek_pointer};
    use glib::translate::ToGlibPtr;
    let value = value.to_glib_none().0;
    // SAFETY: the value is initialised, and its pointer is only asked for where its type has one.
    unsafe { g_value_fits_pointer(value) != 0 && g_value_peek_pointer(value).is_null() }
}

/// What a file says can't be hashed: it is written by another pass, or at any moment by others.
fn reason_to_refuse(spec: &glib::ParamSpec, value: &glib::Value) -> Option<&'static str> {
    const SEVERAL_PASSES: &str = "says that there are several passes";
    const FILE: &str = "names a file";
    if let Some((_, of)) = glib::EnumValue::from_value(value) {
        return is_one_of_several_passes(of.nick()).then_some(SEVERAL_PASSES);
    }
    if let Some((_, flags)) = glib::FlagsValue::from_value(value) {
        let mut nicks = flags.iter().map(|flag| flag.nick());
        return nicks
            .any(is_one_of_several_passes)
            .then_some(SEVERAL_PASSES);
    }
    let name: Vec<&str> = spec.name().split('-').collect();
    let is_named = |words: &[&str]| name.iter().any(|word| words.contains(word));
    let is_default = || text_of(value) == text_of(spec.default_value());
    let Ok(text) = value.get::<Option<String>>() else {
        let refused = is_named(&["pass", "passes", "multipass"]) && !is_default();
        return refused.then_some(SEVERAL_PASSES);
    };
    let text = text.unwrap_or_default();
    let names_file = is_named(&["file", "filename", "location", "path", "uri", "url"]);
    // The file of several passes is only used when there are, and that is another property.
    if names_file && !is_named(&["multipass"]) && !text.is_empty() && !is_default() {
        return Some(FILE);
    }
    text.split([':', ',', ';', ' '])
        .any(is_option_with_file)
        .then_some("has an option that may read or write a file")
}

/// As the nick of a mode or flag.
fn is_one_of_several_passes(nick: &str) -> bool {
    let single = ["one-pass", "single-pass", "1-pass", "onepass", "singlepass"];
    let other = nick.contains("bypass") || nick.contains("passthrough");
    nick.contains("pass") && !other && !single.contains(&nick)
}

/// One of those that x264, x265, libaom and SVT-AV1 take as text.
fn is_option_with_file(option: &str) -> bool {
    const FILES: [&str; 17] = [
        "pass", "multi", "stats", "file", "qpfile", "zonefile", "table", "cqm", "cqmfile",
        "scaling", "dhdr10", "rpu", "load", "save", "csv", "recon", "dump",
    ];
    let Some((name, value)) = option.split_once('=') else {
        return false;
    };
    let mut words = name.split(['-', '_']);
    value.contains(['/', '\\']) || words.any(|word| FILES.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn key_of(parts: &[(String, Result<String, u64>)]) -> Key {
        let mut hasher = KeyHasher::default();
        for (label, part) in parts {
            match part {
                Ok(text) => hasher.text(label, text),
                Err(number) => hasher.number(label, *number),
            }
        }
        hasher.finish()
    }

    #[test]
    fn where_a_part_ends_counts() {
        let mut keys = Vec::new();
        for parts in [
            &["a", "bc"][..],
            &["ab", "c"],
            &["abc", ""],
            &["", "abc"],
            &["a", "b", "c", ""],
        ] {
            let mut hasher = KeyHasher::default();
            for part in parts.chunks(2) {
                hasher.text(part[0], part[1]);
            }
            keys.push(hasher.finish());
        }
        let count = keys.len();
        keys.sort_by_key(ToString::to_string);
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn a_number_isnt_a_text_of_the_same_bytes() {
        let [mut text, mut number] = [(); 2].map(|()| KeyHasher::default());
        text.text("a", "8 bytes!");
        number.number("a", u64::from_le_bytes(*b"8 bytes!"));
        assert_ne!(text.finish(), number.finish());
    }

    #[test]
    fn a_frame_at_another_time_is_another_frame() {
        let picture = Picture([1; 16]);
        let time = gst::ClockTime::from_mseconds;
        let key = |at: u64, duration: Option<u64>| {
            let mut hasher = KeyHasher::default();
            hasher.frame(&picture, time(at), duration.map(time));
            hasher.finish()
        };
        assert_eq!(key(0, Some(40)), key(0, Some(40)));
        let others = [key(40, Some(40)), key(0, Some(20)), key(0, None)];
        assert!(others.iter().all(|other| *other != key(0, Some(40))));
    }

    #[test]
    fn a_key_is_written_as_32_digits() {
        let text = KeyHasher::default().finish().to_string();
        assert_eq!(text.len(), 32);
        assert!(text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    proptest! {
        #[test]
        fn other_parts_give_another_key(
            one in prop::collection::vec(("[ab]{0,3}", prop_oneof!["[ab]{0,3}".prop_map(Ok), (0u64..3).prop_map(Err)]), 0..4),
            other in prop::collection::vec(("[ab]{0,3}", prop_oneof!["[ab]{0,3}".prop_map(Ok), (0u64..3).prop_map(Err)]), 0..4),
        ) {
            prop_assert_eq!(one == other, key_of(&one) == key_of(&other));
        }
    }

    fn info(format: gst_video::VideoFormat, width: u32, height: u32) -> gst_video::VideoInfo {
        gst::init().unwrap();
        let info = gst_video::VideoInfo::builder(format, width, height);
        info.build().unwrap()
    }

    fn i420() -> gst_video::VideoInfo {
        info(gst_video::VideoFormat::I420, 32, 24)
    }

    /// Bytes without a pattern.
    fn noise(length: usize, mut state: u32) -> Vec<u8> {
        let byte = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 24) as u8
        };
        std::iter::repeat_with(byte).take(length).collect()
    }

    fn plain(info: &gst_video::VideoInfo) -> gst::Buffer {
        gst::Buffer::from_mut_slice(noise(info.size(), 1))
    }

    /// The same picture with this around it and at the ends of its rows.
    fn padded(
        frame: &gst::Buffer,
        info: &gst_video::VideoInfo,
        padding: u8,
    ) -> Option<gst::Buffer> {
        let mut wide = info.clone();
        let mut alignment = gst_video::VideoAlignment::new(2, 2, 2, 2, &[7; 4]);
        wide.align(&mut alignment).ok()?;
        let mut buffer = gst::Buffer::from_mut_slice(vec![padding; wide.size()]);
        let planes = info.n_planes() as usize;
        let (width, height) = (info.width(), info.height());
        gst_video::VideoMeta::add_full(
            buffer.make_mut(),
            gst_video::VideoFrameFlags::empty(),
            info.format(),
            width,
            height,
            &wide.offset()[..planes],
            &wide.stride()[..planes],
        )
        .unwrap();
        let source = gst_video::VideoFrame::from_buffer_readable(frame.clone(), info).unwrap();
        let mut copy = gst_video::VideoFrame::from_buffer_writable(buffer, info).unwrap();
        source.copy(&mut copy).unwrap();
        Some(copy.into_buffer())
    }

    fn of(buffer: &gst::Buffer, info: &gst_video::VideoInfo) -> Picture {
        Picture::of(buffer, info).unwrap()
    }

    #[test]
    fn in_every_format_the_visible_pixels_count_and_nothing_else() {
        gst::init().unwrap();
        let (mut hashed, mut with_padding) = (0, 0);
        for format in gst_video::VideoFormat::iter_raw() {
            let info = info(format, 12, 5);
            let buffer = plain(&info);
            if info.format_info().is_tiled() || info.format_info().has_palette() {
                assert!(Picture::of(&buffer, &info).is_err(), "{format}");
                continue;
            }
            let picture = of(&buffer, &info);
            assert_eq!(picture, of(&plain(&info), &info));
            hashed += 1;
            let [zeros, ones] = [0, 0xff].map(|padding| padded(&buffer, &info, padding));
            let (Some(zeros), Some(ones)) = (zeros, ones) else {
                continue;
            };
            with_padding += 1;
            assert_eq!(of(&ones, &info), picture, "{format}");
            // What GStreamer copied there is what is seen.
            for at in 0..zeros.size() {
                let byte = |buffer: &gst::Buffer| buffer.map_readable().unwrap()[at];
                let is_seen = byte(&zeros) == byte(&ones);
                let mut altered = zeros.copy_deep().unwrap();
                altered.make_mut().map_writable().unwrap()[at] ^= 1;
                assert_eq!(of(&altered, &info) != picture, is_seen, "{format}: {at}");
            }
        }
        assert!(hashed > 80, "{hashed}");
        assert!(with_padding > 75, "{with_padding}");
    }

    #[test]
    fn the_last_pixel_counts_where_the_width_is_odd() {
        gst::init().unwrap();
        for format in gst_video::VideoFormat::iter_raw() {
            let info = info(format, 35, 17);
            let Ok(picture) = Picture::of(&plain(&info), &info) else {
                continue;
            };
            for component in 0..info.n_components() as u8 {
                let pixel = info.comp_pstride(component);
                // Packed across bytes: whole rows are taken.
                let Some(pixel) = usize::try_from(pixel).ok().filter(|pixel| *pixel > 0) else {
                    continue;
                };
                let (width, height) = (info.comp_width(component), info.comp_height(component));
                let row = (height as usize - 1) * info.comp_stride(component) as usize;
                let mut altered = noise(info.size(), 1);
                altered[info.comp_offset(component) + row + (width as usize - 1) * pixel] ^= 1;
                let altered = gst::Buffer::from_mut_slice(altered);
                assert_ne!(of(&altered, &info), picture, "{format}: {component}");
            }
        }
    }

    #[test]
    fn alternating_fields_are_hashed_to_their_end() {
        let both = i420();
        let info = gst_video::VideoInfo::builder(both.format(), both.width(), both.height())
            .interlace_mode(gst_video::VideoInterlaceMode::Alternate)
            .build()
            .unwrap();
        assert_eq!(info.size(), both.size() / 2);
        let mut field = plain(&info);
        let picture = of(&field, &info);
        let mut altered = noise(info.size(), 1);
        altered[info.size() - 1] ^= 1;
        assert_ne!(of(&gst::Buffer::from_mut_slice(altered), &info), picture);
        // As pools make them.
        gst_video::VideoMeta::add_full(
            field.make_mut(),
            gst_video::VideoFrameFlags::empty(),
            info.format(),
            info.width(),
            info.height(),
            info.offset(),
            info.stride(),
        )
        .unwrap();
        assert_eq!(of(&field, &info), picture);
    }

    #[test]
    fn memory_that_ends_too_soon_is_refused() {
        let info = i420();
        let short = gst::Buffer::from_mut_slice(vec![0; info.size() - 1]);
        assert!(Picture::of(&short, &info).is_err());
        for (offset, stride) in [(1, 32), (0, 33), (0, 16), (0, -32), (1 << 40, 32)] {
            let mut buffer = plain(&info);
            let offset = [0, info.offset()[1], info.offset()[2] + offset];
            let strides = [32, 16, stride - 16];
            // GStreamer may see for itself that it can't be.
            let added = gst_video::VideoMeta::add_full(
                buffer.make_mut(),
                gst_video::VideoFrameFlags::empty(),
                info.format(),
                info.width(),
                info.height(),
                &offset,
                &strides,
            );
            assert!(
                added.is_err() || Picture::of(&buffer, &info).is_err(),
                "{offset:?} {stride}"
            );
        }
    }

    #[test]
    fn the_same_bytes_in_other_rows_are_another_picture() {
        let bytes = |info: gst_video::VideoInfo| of(&plain(&info), &info);
        let gray = |width, height| bytes(info(gst_video::VideoFormat::Gray8, width, height));
        assert_ne!(gray(32, 16), gray(16, 32));
        let rgb = info(gst_video::VideoFormat::Rgb, 32, 16);
        assert_ne!(bytes(rgb), bytes(info(gst_video::VideoFormat::Bgr, 32, 16)));
    }

    #[test]
    fn a_meta_of_another_picture_than_the_caps_is_refused() {
        let info = i420();
        let mut buffer = plain(&info);
        let frame_flags = gst_video::VideoFrameFlags::empty();
        gst_video::VideoMeta::add(buffer.make_mut(), frame_flags, info.format(), 32, 22).unwrap();
        assert!(Picture::of(&buffer, &info).is_err());
    }

    #[test]
    fn planes_in_memories_of_their_own_are_hashed() {
        let info = i420();
        let whole = noise(info.size(), 1);
        let edges = [0, info.offset()[1], info.offset()[2], info.size()];
        let in_parts = || {
            let mut buffer = gst::Buffer::new();
            for plane in edges.windows(2) {
                let memory = gst::Memory::from_slice(whole[plane[0]..plane[1]].to_vec());
                buffer.make_mut().append_memory(memory);
            }
            buffer
        };
        let picture = of(&plain(&info), &info);
        assert_eq!(of(&in_parts(), &info), picture);
        let mut buffer = in_parts();
        let frame_flags = gst_video::VideoFrameFlags::empty();
        gst_video::VideoMeta::add(buffer.make_mut(), frame_flags, info.format(), 32, 24).unwrap();
        assert_eq!(of(&buffer, &info), picture);
        assert_eq!(buffer.n_memory(), 3);
        // A plane that begins in one and ends in another.
        let mut torn = gst::Buffer::new();
        for part in whole.chunks(info.offset()[1] / 2) {
            let memory = gst::Memory::from_slice(part.to_vec());
            torn.make_mut().append_memory(memory);
        }
        gst_video::VideoMeta::add(torn.make_mut(), frame_flags, info.format(), 32, 24).unwrap();
        assert!(Picture::of(&torn, &info).is_err());
    }

    #[test]
    fn flags_count_that_an_encoder_looks_at() {
        let info = i420();
        let picture = of(&plain(&info), &info);
        let with = |flags: gst::BufferFlags, video: gst_video::VideoBufferFlags| {
            let mut buffer = plain(&info);
            buffer.make_mut().set_flags(flags);
            buffer.make_mut().set_video_flags(video);
            of(&buffer, &info)
        };
        let no_video = gst_video::VideoBufferFlags::empty();
        let left_out = gst::BufferFlags::DISCONT | gst::BufferFlags::TAG_MEMORY;
        assert_eq!(with(left_out, no_video), picture);
        for flag in [
            gst::BufferFlags::CORRUPTED,
            gst::BufferFlags::GAP,
            gst::BufferFlags::DROPPABLE,
        ] {
            assert_ne!(with(flag, no_video), picture, "{flag:?}");
        }
        for flag in gst_video::VideoBufferFlags::all().iter() {
            assert_ne!(with(gst::BufferFlags::empty(), flag), picture, "{flag:?}");
        }
    }

    #[test]
    fn metas_that_an_encoder_may_see_are_refused() {
        let info = i420();
        let picture = of(&plain(&info), &info);
        let mut buffer = plain(&info);
        let frame_flags = gst_video::VideoFrameFlags::empty();
        gst_video::VideoMeta::add(buffer.make_mut(), frame_flags, info.format(), 32, 24).unwrap();
        gst::ParentBufferMeta::add(buffer.make_mut(), &gst::Buffer::new());
        assert_eq!(of(&buffer, &info), picture);
        let captions = gst_video::VideoCaptionType::Cea608Raw;
        gst_video::VideoCaptionMeta::add(buffer.make_mut(), captions, &[1, 2]);
        let refused = Picture::of(&buffer, &info).unwrap_err();
        assert_eq!(refused.to_string(), "frames carry a GstVideoCaptionMetaAPI");
    }

    fn parsed(description: &str) -> gst::Element {
        gst::init().unwrap();
        gst::parse::bin_from_description(description, true)
            .unwrap()
            .upcast()
    }

    fn identity(encoder: &gst::Element) -> Result<Key, Unhashable> {
        let mut hasher = KeyHasher::default();
        encoder_identity(&mut hasher, encoder)?;
        Ok(hasher.finish())
    }

    /// Which property, and why.
    fn refused(description: &str) -> (String, &'static str) {
        match identity(&parsed(description)) {
            Err(Unhashable::Property { name, why, .. }) => (name, why),
            other => panic!("{description}: {other:?}"),
        }
    }

    /// All that can be made here: hardware may be missing.
    fn installed() -> Vec<gst::ElementFactory> {
        gst::init().unwrap();
        let kind = gst::ElementFactoryType::VIDEO_ENCODER;
        let factories = gst::ElementFactory::factories_with_type(kind, gst::Rank::NONE);
        let factories = factories.into_iter();
        factories
            .filter(|factory| factory.create().build().is_ok())
            .collect()
    }

    #[test]
    fn every_installed_encoder_is_the_same_when_made_again() {
        let mut keys = BTreeMap::new();
        let factories = installed();
        assert!(factories.len() >= 8, "{factories:?}");
        for factory in &factories {
            let [one, other] = [(); 2].map(|()| factory.create().build().unwrap());
            assert_ne!(one.name(), other.name());
            let one = identity(&one);
            assert_eq!(one, identity(&other), "{}", factory.name());
            let key = one.unwrap_or_else(|why| panic!("{why}"));
            let before = keys.insert(key.to_string(), factory.name());
            assert_eq!(before, None, "{}", factory.name());
        }
    }

    /// Another value of the property, as easy to come by.
    fn other_value(spec: &glib::ParamSpec, value: &glib::Value) -> Option<glib::Value> {
        let kind = value.type_();
        if kind.is_a(glib::ValueArray::static_type()) {
            return None;
        }
        if let Ok(value) = value.get::<bool>() {
            return Some((!value).to_value());
        }
        if let Some((class, value)) = glib::EnumValue::from_value(value) {
            let mut others = class.values().iter();
            return others
                .find(|other| *other != value)?
                .to_value(&class)
                .into();
        }
        let mut other = value.clone();
        for text in ["1", "2", "another"] {
            let text = glib::Value::deserialize(text, kind).ok()?;
            if spec.value_is_valid(&text) {
                other = text;
            }
            if text_of(&other) != text_of(value) {
                return Some(other);
            }
        }
        None
    }

    #[test]
    fn every_property_of_every_installed_encoder_counts() {
        let mut counted = 0;
        for factory in installed() {
            let default = identity(&factory.create().build().unwrap()).unwrap();
            for spec in factory.create().build().unwrap().list_properties() {
                let encoder = factory.create().build().unwrap();
                // (Of vp8enc's one says that it does nothing any more, in a warning.)
                let is_settable = spec.flags().contains(glib::ParamFlags::READWRITE)
                    && spec.name() != "arnr-type"
                    && !spec.flags().contains(glib::ParamFlags::CONSTRUCT_ONLY);
                let value = is_settable.then(|| encoder.property_value(spec.name()));
                let Some(value) = value.filter(|_| !["name", "parent"].contains(&spec.name()))
                else {
                    continue;
                };
                let Some(other) = other_value(&spec, &value) else {
                    continue;
                };
                encoder.set_property_from_value(spec.name(), &other);
                if text_of(&encoder.property_value(spec.name())) == text_of(&value) {
                    continue;
                }
                assert_ne!(
                    identity(&encoder),
                    Ok(default),
                    "{}: {}",
                    factory.name(),
                    spec.name()
                );
                counted += 1;
            }
        }
        assert!(counted > 200, "{counted}");
    }

    #[test]
    fn how_elements_of_a_bin_are_set_ordered_and_linked_counts() {
        let key = |description: &str| identity(&parsed(description)).unwrap();
        let one = "videoscale ! videoconvert ! jpegenc quality=80 ! identity";
        assert_eq!(key(one), key(one));
        let others = [
            "videoscale ! videoconvert ! jpegenc quality=81 ! identity",
            "videoconvert ! videoscale ! jpegenc quality=80 ! identity",
            "videoscale ! videoconvert ! jpegenc quality=80",
            "videoscale ! videoconvert ! jpegenc quality=80 ! identity sync=true",
            "videoscale ! videoconvert ! jpegenc quality=80 ! identity ! capsfilter caps=image/jpeg,width=9",
        ];
        assert!(others.iter().all(|other| key(other) != key(one)));
        // In the same order, and linked otherwise.
        let linked = "videoscale name=a videoconvert name=b jpegenc name=c";
        let [one, other] =
            ["a. ! b. b. ! c.", "b. ! a. a. ! c."].map(|links| key(&format!("{linked} {links}")));
        assert_ne!(one, other);
        // Bins in bins have pads with counted names.
        let nested = "videoconvert ! ( videoscale ! jpegenc )";
        assert_eq!(key(nested), key(nested));
        assert_ne!(
            key(nested),
            key("videoconvert ! ( videoscale ! jpegenc quality=9 )")
        );
    }

    #[test]
    fn several_passes_and_files_are_refused() {
        for (description, property) in [
            ("x264enc pass=pass1", "pass"),
            ("x264enc pass=pass3", "pass"),
            ("vp8enc multipass-mode=first-pass", "multipass-mode"),
            ("vp9enc multipass-mode=last-pass", "multipass-mode"),
            ("theoraenc multipass-mode=second-pass", "multipass-mode"),
            ("av1enc enc-pass=second-pass", "enc-pass"),
            ("avenc_mpeg4 pass=pass2", "pass"),
        ] {
            let factory = description.split(' ').next().unwrap();
            gst::init().unwrap();
            if gst::ElementFactory::find(factory).is_none() {
                continue;
            }
            let (name, why) = refused(description);
            assert_eq!(
                (name.as_str(), why),
                (property, "says that there are several passes")
            );
        }
        for options in [
            "pass=2",
            "ref=2:stats=x.log",
            "bframes=1:qpfile=here",
            "cqm=a/b",
        ] {
            let (name, _) = refused(&format!("x264enc option-string={options}"));
            assert_eq!(name, "option-string");
        }
        let (name, why) = refused("jpegenc ! filesink location=here");
        assert_eq!((name.as_str(), why), ("location", "names a file"));
        for fine in [
            "x264enc pass=qual",
            "x264enc option-string=ref=2:bframes=1",
            "x264enc multipass-cache-file=here",
        ] {
            assert!(identity(&parsed(fine)).is_ok(), "{fine}");
        }
    }

    #[test]
    fn an_object_has_no_text() {
        gst::init().unwrap();
        let selector = gst::ElementFactory::make("input-selector").build().unwrap();
        assert!(identity(&selector).is_ok());
        let pad = selector.request_pad_simple("sink_%u").unwrap();
        selector.set_property("active-pad", &pad);
        let refused = identity(&selector).unwrap_err().to_string();
        assert_eq!(refused, "property active-pad of input-selector has no text");
    }
}
