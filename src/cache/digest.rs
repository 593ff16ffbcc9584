// SPDX-License-Identifier: MPL-2.0

//! What of a frame counts: its visible pixels and its flags.

use super::key::{KeyHasher, Unhashable};
use crate::media::pixels::{self, Rows};
use gst_video::VideoFrameExt;
use gst_video::prelude::*;
use std::fmt;
use std::str::FromStr;
use std::sync::Once;
use thiserror::Error;

/// The pixels and flags of one frame. A frame is hashed once, however many chunks it is fed to, and best while its pixels are still
/// in the processor's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameDigest([u8; 16]);

impl FrameDigest {
    pub(crate) fn of(
        buffer: &gst::BufferRef,
        info: &gst_video::VideoInfo,
    ) -> Result<Self, Unhashable> {
        let foreign = foreign_metas(buffer)?;
        if let Some(api) = foreign.first() {
            return Err(Unhashable::Meta(api.clone()));
        }
        let mut hasher = KeyHasher::of_part();
        hash_pixels(&mut hasher, buffer, info)?;
        Ok(Self(*hasher.finish().as_bytes()))
    }

    /// Of a frame that has this place in its film. What can't be hashed of it is as that place has it, so that another place is another
    /// frame.
    pub(crate) fn in_film(
        buffer: &gst::BufferRef,
        info: &gst_video::VideoInfo,
        place: u64,
    ) -> Result<Self, Unhashable> {
        let mut hasher = KeyHasher::of_part();
        let foreign = foreign_metas(buffer)?;
        for api in &foreign {
            hasher.text("meta", api);
        }
        if !foreign.is_empty() {
            hasher.number("place", place);
        }
        hash_pixels(&mut hasher, buffer, info)?;
        Ok(Self(*hasher.finish().as_bytes()))
    }

    /// The one that the frame carries.
    pub(crate) fn carried_by(buffer: &gst::BufferRef) -> Option<Self> {
        register_meta();
        let meta = gst::meta::CustomMeta::from_buffer(buffer, CARRIER).ok()?;
        let digest = meta.structure().get::<&str>(CARRIER).ok()?;
        digest.parse().ok()
    }

    /// The frame carries it, so that nobody need look at the pixels, which may be gone.
    pub(crate) fn add_to(&self, buffer: &mut gst::BufferRef) {
        register_meta();
        // PANIC: it is registered, and anything may be added to a buffer that is writable.
        let mut meta = gst::meta::CustomMeta::add(buffer, CARRIER).expect("own meta");
        meta.mut_structure().set(CARRIER, self.to_string());
    }

    /// Encoders pass on what they don't know.
    pub(crate) fn remove_from(buffer: &mut gst::BufferRef) {
        if let Ok(meta) = gst::meta::CustomMeta::from_mut_buffer(buffer, CARRIER) {
            let _ = meta.remove();
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    #[cfg(test)]
    pub(super) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// As 32 hexadecimal digits.
impl fmt::Display for FrameDigest {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(to, "{byte:02x}"))
    }
}

impl FromStr for FrameDigest {
    type Err = NoDigest;

    fn from_str(digits: &str) -> Result<Self, NoDigest> {
        let is_long_enough = digits.len() == 32 && digits.is_ascii();
        let number = u128::from_str_radix(digits, 16).ok();
        let number = number.filter(|_| is_long_enough && !digits.starts_with('+'));
        number.map(|it| Self(it.to_be_bytes())).ok_or(NoDigest)
    }
}

/// The text isn't a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("it isn't 32 hexadecimal digits")]
pub struct NoDigest;

/// The name of the meta with a frame's digest, and of the field in it.
const CARRIER: &str = "GstVtParallelEncFrameDigest";

fn register_meta() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| gst::meta::CustomMeta::register(CARRIER, &[]));
}

/// What an encoder doesn't look at: after an edit the same frame may come with others of these.
const FLAGS_LEFT_OUT: gst::BufferFlags = gst::BufferFlags::DISCONT
    .union(gst::BufferFlags::RESYNC)
    .union(gst::BufferFlags::TAG_MEMORY)
    .union(gst::BufferFlags::LIVE)
    .union(gst::BufferFlags::SYNC_AFTER);

/// The visible pixels and the flags. Offsets of buffers are left out: an edit before the frame changes them, not the frame.
fn hash_pixels(
    hasher: &mut KeyHasher,
    buffer: &gst::BufferRef,
    info: &gst_video::VideoInfo,
) -> Result<(), Unhashable> {
    let flags = buffer.flags() - FLAGS_LEFT_OUT;
    hasher.number("flags", flags.bits().into());
    hasher.number("video flags", buffer.video_flags().bits().into());
    let frame = pixels::map(buffer, info).map_err(Unhashable::Pixels)?;
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

/// Encoders see captions, HDR metadata, regions of interest: their names. Only metas that say where the pixels are mean nothing beside
/// them.
fn foreign_metas(buffer: &gst::BufferRef) -> Result<Vec<String>, Unhashable> {
    let mut views = 0;
    let mut foreign = Vec::new();
    for meta in buffer.iter_meta::<gst::Meta>() {
        let api = meta.api();
        if api == gst_video::VideoMeta::meta_api() {
            views += 1;
        } else if api != gst::ParentBufferMeta::meta_api() {
            foreign.push(api.name().to_string());
        }
    }
    if views > 1 {
        return Err(Unhashable::Pixels("there are several in a buffer"));
    }
    Ok(foreign)
}

fn hash_plane(
    hasher: &mut KeyHasher,
    frame: &pixels::Mapped<'_>,
    plane: u32,
) -> Result<(), Unhashable> {
    let rows = Rows::of(frame, plane).map_err(Unhashable::Pixels)?;
    hasher.open(b'p', "plane", rows.count * rows.visible);
    if rows.visible == rows.stride {
        hasher.write(rows.data);
    } else {
        for row in rows.iter() {
            hasher.write(row);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn of(buffer: &gst::Buffer, info: &gst_video::VideoInfo) -> FrameDigest {
        FrameDigest::of(buffer, info).unwrap()
    }

    #[test]
    fn in_every_format_the_visible_pixels_count_and_nothing_else() {
        gst::init().unwrap();
        let (mut hashed, mut with_padding) = (0, 0);
        for format in gst_video::VideoFormat::iter_raw() {
            let info = info(format, 12, 5);
            let buffer = plain(&info);
            if info.format_info().is_tiled() || info.format_info().has_palette() {
                assert!(FrameDigest::of(&buffer, &info).is_err(), "{format}");
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

    /// (A digest of nothing would be that of any other picture.)
    #[test]
    fn memory_that_the_format_says_nothing_of_is_refused() {
        gst::init().unwrap();
        for format in ["ENCODED", "DMA_DRM,drm-format=NV12"] {
            let caps = format!("video/x-raw(memory:DMABuf),format={format},width=32,height=24");
            let caps: gst::Caps = caps.parse().unwrap();
            // GStreamer 1.22 knows no DMA_DRM.
            if let Ok(info) = gst_video::VideoInfo::from_caps(&caps) {
                let buffer = gst::Buffer::from_mut_slice(noise(32 * 24 * 2, 1));
                assert!(FrameDigest::of(&buffer, &info).is_err(), "{format}");
            }
        }
    }

    #[test]
    fn the_last_pixel_counts_where_the_width_is_odd() {
        gst::init().unwrap();
        for format in gst_video::VideoFormat::iter_raw() {
            let info = info(format, 35, 17);
            let Ok(picture) = FrameDigest::of(&plain(&info), &info) else {
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
        assert!(FrameDigest::of(&short, &info).is_err());
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
                added.is_err() || FrameDigest::of(&buffer, &info).is_err(),
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
        assert!(FrameDigest::of(&buffer, &info).is_err());
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
        assert!(FrameDigest::of(&torn, &info).is_err());
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
        let refused = FrameDigest::of(&buffer, &info).unwrap_err();
        assert_eq!(refused.to_string(), "frames carry a GstVideoCaptionMetaAPI");
    }
}
