// SPDX-License-Identifier: MPL-2.0

//! The visible pixels of a raw frame, in rows.

use gst_video::VideoFrameExt;

pub(crate) type Mapped<'a> = gst_video::VideoFrameRef<&'a gst::BufferRef>;

/// Maps the frame, if it is what its caps say.
pub(crate) fn map<'a>(
    buffer: &'a gst::BufferRef,
    info: &gst_video::VideoInfo,
) -> Result<Mapped<'a>, &'static str> {
    if !info.is_valid() || info.n_planes() == 0 {
        return Err("their format isn't laid out in rows");
    }
    // GStreamer takes it for a mistake of ours to map a picture that is smaller than its caps.
    let is_there = |meta: gst::MetaRef<'_, gst_video::VideoMeta>| {
        meta.width() >= info.width() && meta.height() >= info.height()
    };
    if !buffer.meta::<gst_video::VideoMeta>().is_none_or(is_there) {
        return Err("they are fewer than the caps say");
    }
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info)
        .map_err(|_| "they can't be mapped")?;
    let is = |info: &gst_video::VideoInfo| (info.format(), info.width(), info.height());
    if is(frame.info()) != is(info) {
        return Err("they aren't what the caps say");
    }
    Ok(frame)
}

/// A plane's visible bytes, and what is added to its rows: nobody sees that, and it may never have been written.
pub(crate) struct Rows<'a> {
    /// From the first visible byte to the last.
    pub(crate) data: &'a [u8],
    pub(crate) stride: usize,
    /// Visible bytes of each row.
    pub(crate) visible: usize,
    pub(crate) count: usize,
}

impl<'a> Rows<'a> {
    /// Of a format that is laid out in rows.
    pub(crate) fn of(frame: &'a Mapped<'_>, plane: u32) -> Result<Self, &'static str> {
        let format = frame.info().format_info();
        if format.is_tiled() || format.has_palette() {
            return Err("their format isn't laid out in rows");
        }
        let unknown = "the layout of their format isn't known";
        let (count, visible) = visible(frame.info(), plane).ok_or(unknown)?;
        let stride = frame.plane_stride()[plane as usize];
        let stride = usize::try_from(stride).ok();
        let stride = stride.filter(|&stride| stride >= visible);
        let stride = stride.ok_or("their rows overlap or run backwards")?;
        let length = (count - 1).checked_mul(stride);
        let length = length.and_then(|length| length.checked_add(visible));
        Ok(Self {
            data: seen(frame, plane, length.ok_or(BEYOND_MEMORY)?)?,
            stride,
            visible,
            count,
        })
    }

    pub(crate) fn get(&self, row: usize) -> Option<&'a [u8]> {
        let start = row.checked_mul(self.stride)?;
        self.data.get(start..start.checked_add(self.visible)?)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let visible = self.visible;
        self.data
            .chunks(self.stride)
            .map(move |row| &row[..visible])
    }
}

/// How many rows of a plane are seen, and how many bytes of each.
fn visible(info: &gst_video::VideoInfo, plane: u32) -> Option<(usize, usize)> {
    let format = info.format_info();
    let (mut rows, mut row) = (0, 0);
    let components = format.component(plane).into_iter();
    for component in components.filter_map(|component| u8::try_from(component).ok()) {
        // Alternating fields come in buffers of their own, and `comp_height` is that of both.
        rows = rows.max(format.scale_height(component, info.field_height()) as usize);
        let pixel = usize::try_from(info.comp_pstride(component)).unwrap_or(0);
        row = match info.comp_width(component) as usize * pixel {
            // In formats that pack pixels across bytes (v210).
            0 => whole_row(info, plane)?,
            length => row.max(length),
        };
    }
    (rows > 0 && row > 0).then_some((rows, row))
}

/// How long rows are where nothing is added to them.
fn whole_row(info: &gst_video::VideoInfo, plane: u32) -> Option<usize> {
    let plain = gst_video::VideoInfo::builder(info.format(), info.width(), info.height());
    let strides = plain.build().ok()?;
    let stride = *strides.stride().get(plane as usize)?;
    usize::try_from(stride).ok()
}

const BEYOND_MEMORY: &str = "they end beyond their memory";

/// The plane from its first visible byte to its last. `plane_data` takes the stride times the height: beyond the end of the
/// buffer for alternating fields, and where a meta puts the first row further in (videocrop).
fn seen<'a>(frame: &'a Mapped<'_>, plane: u32, length: usize) -> Result<&'a [u8], &'static str> {
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
