// SPDX-License-Identifier: MPL-2.0

//! Small pictures of raw frames, to find cuts in.

use super::pixels::{self, Mapped, Rows};
use super::raw::{are_of_system_memory, pixels as described};
use crate::logic::scenes::{REDUCTION, Thumbnail};
use gst_video::VideoFrameExt;

/// Of these rows of a thumbnail's row, so that both are of the same field.
const ROWS: [usize; 2] = [0, REDUCTION / 2];

/// Where the luma of a format lies, or the green of RGB, which is most of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Luma {
    plane: u32,
    /// Bytes before the first sample, and from one sample to the next.
    offset: usize,
    step: usize,
    depth: Depth,
}

/// How its samples become eight bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Byte,
    Little { beyond: u32 },
    Big { beyond: u32 },
}

impl Luma {
    /// `None`: it doesn't lie in whole bytes.
    fn of(info: &gst_video::VideoInfo) -> Option<Self> {
        use gst_video::VideoFormat::{V216, Y412Be, Y412Le};
        let format = info.format_info();
        // (These are little-endian, or lie in the high bits, whatever is said of them.)
        if matches!(info.format(), V216 | Y412Be | Y412Le)
            || format.is_complex()
            || format.is_tiled()
            || format.has_palette()
        {
            return None;
        }
        let component = u8::from(format.is_rgb());
        let at = usize::from(component);
        let place = |at: usize| Some((format.plane().get(at)?, format.poffset().get(at)?));
        let others = (0..format.n_components() as usize).filter(|it| *it != at);
        if others.into_iter().any(|other| place(other) == place(at)) {
            // They share their bytes.
            return None;
        }
        let (depth, shift) = (*format.depth().get(at)?, *format.shift().get(at)?);
        let step = usize::try_from(info.comp_pstride(component)).ok()?;
        let depth = match (depth, shift) {
            (8, 0) => Depth::Byte,
            (9..=16, _) if depth + shift <= 16 && step >= 2 => {
                let beyond = depth + shift - 8;
                match format.is_le() {
                    true => Depth::Little { beyond },
                    false => Depth::Big { beyond },
                }
            }
            _ => return None,
        };
        Some(Self {
            plane: *format.plane().get(at)?,
            offset: *format.poffset().get(at)? as usize,
            step: Some(step).filter(|&step| step > 0)?,
            depth,
        })
    }

    /// Adds up the samples of a row, so many to one.
    fn add(self, row: &[u8], sums: &mut [u32]) {
        let row = row.get(self.offset..).unwrap_or_default();
        let pair = |sample: &[u8]| match sample {
            [a, b, ..] => [*a, *b],
            _ => [0, 0],
        };
        match self.depth {
            // As fast as may be: most video is that.
            Depth::Byte if self.step == 1 => {
                for (sum, samples) in sums.iter_mut().zip(row.chunks_exact(REDUCTION)) {
                    *sum += samples.iter().map(|&sample| u32::from(sample)).sum::<u32>();
                }
            }
            Depth::Byte => self.add_each(row, sums, |sample| u32::from(sample[0])),
            Depth::Little { beyond } => self.add_each(row, sums, |sample| {
                u32::from(u16::from_le_bytes(pair(sample)) >> beyond)
            }),
            Depth::Big { beyond } => self.add_each(row, sums, |sample| {
                u32::from(u16::from_be_bytes(pair(sample)) >> beyond)
            }),
        }
    }

    fn add_each(self, row: &[u8], sums: &mut [u32], value: impl Fn(&[u8]) -> u32) {
        for (sum, samples) in sums.iter_mut().zip(row.chunks(self.step * REDUCTION)) {
            *sum += samples.chunks(self.step).map(&value).sum::<u32>();
        }
    }

    fn reduced(self, frame: &Mapped<'_>, width: usize, height: usize) -> Option<Vec<u8>> {
        let rows = Rows::of(frame, self.plane).ok()?;
        let mut samples = Vec::with_capacity(width * height);
        let mut sums = vec![0; width];
        for y in 0..height {
            sums.fill(0);
            for row in ROWS.map(|row| y * REDUCTION + row) {
                self.add(rows.get(row)?, &mut sums);
            }
            let count = (ROWS.len() * REDUCTION) as u32;
            let means = sums.iter().map(|sum| (sum + count / 2) / count);
            samples.extend(means.map(|mean| mean.min(255) as u8));
        }
        Some(samples)
    }
}

/// Makes thumbnails of frames of one format.
pub(crate) struct Thumbnails {
    info: gst_video::VideoInfo,
    width: usize,
    height: usize,
    way: Way,
}

enum Way {
    Luma(Luma),
    /// GStreamer brings it there.
    Converted(Box<gst_video::VideoConverter>, gst_video::VideoInfo),
}

impl Thumbnails {
    /// Frames of these caps can be looked at, for all that is known: they lie in this machine's memory, and in a known way.
    pub(crate) fn can_be_made(caps: &gst::CapsRef) -> bool {
        are_of_system_memory(caps) && described(caps).is_some_and(|info| Self::new(&info).is_some())
    }

    /// `None`: nothing makes them.
    pub(crate) fn new(info: &gst_video::VideoInfo) -> Option<Self> {
        let [width, height] = [info.width(), info.field_height()].map(|it| it / REDUCTION as u32);
        let way = match Luma::of(info) {
            Some(luma) => Way::Luma(luma),
            None => {
                let small = gst_video::VideoInfo::builder(
                    gst_video::VideoFormat::Gray8,
                    width.max(1),
                    height.max(1),
                );
                let small = small.fps(info.fps()).interlace_mode(info.interlace_mode());
                let small = small.build().ok()?;
                // (More than that nobody could see.)
                let mut config = gst_video::VideoConverterConfig::new();
                config.set_resampler_method(gst_video::VideoResamplerMethod::Linear);
                config.set_dither_method(gst_video::VideoDitherMethod::None);
                let converter = gst_video::VideoConverter::new(info, &small, Some(config)).ok()?;
                Way::Converted(Box::new(converter), small)
            }
        };
        Some(Self {
            info: info.clone(),
            width: width as usize,
            height: height as usize,
            way,
        })
    }

    /// `None`: its memory can't be mapped, or isn't what the caps say.
    pub(crate) fn of(&self, buffer: &gst::BufferRef) -> Option<Thumbnail> {
        let frame = pixels::map(buffer, &self.info).ok()?;
        let samples = match &self.way {
            Way::Luma(luma) => luma.reduced(&frame, self.width, self.height)?,
            Way::Converted(converter, small) => self.converted(&frame, converter, small)?,
        };
        Some(Thumbnail {
            width: self.width,
            samples,
        })
    }

    fn converted(
        &self,
        frame: &Mapped<'_>,
        converter: &gst_video::VideoConverter,
        small: &gst_video::VideoInfo,
    ) -> Option<Vec<u8>> {
        let mut buffer = gst::Buffer::with_size(small.size()).ok()?;
        let mut target =
            gst_video::VideoFrameRef::from_buffer_ref_writable(buffer.get_mut()?, small).ok()?;
        converter.frame_ref(frame, &mut target);
        let stride = usize::try_from(target.plane_stride()[0]).ok()?;
        let rows = target.plane_data(0).ok()?.chunks(stride);
        let rows = rows.filter_map(|row| row.get(..self.width));
        Some(rows.take(self.height).flatten().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::scenes::Scenes;

    const WIDTH: u32 = 160;
    const HEIGHT: u32 = 96;

    fn info(format: gst_video::VideoFormat) -> gst_video::VideoInfo {
        let info = gst_video::VideoInfo::builder(format, WIDTH, HEIGHT);
        info.build().unwrap()
    }

    /// Squares of 8 samples of any gray, in this format; below eight bits, noise that is another each time.
    fn picture(seed: u32, format: gst_video::VideoFormat) -> gst::Buffer {
        static NOISE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let gray = info(gst_video::VideoFormat::Gray16Le);
        let value = |x: u32, y: u32| {
            let square = (x / 8 + y / 8 * 20 + seed * 777).wrapping_mul(2_654_435_761);
            let noise = NOISE.fetch_add(97, std::sync::atomic::Ordering::Relaxed);
            let low = (noise.wrapping_mul(2_654_435_761) >> 24) as u8;
            [low, 30 + (square >> 24) as u8 / 2]
        };
        let pixels = (0..HEIGHT).flat_map(|y| (0..WIDTH).flat_map(move |x| value(x, y)));
        let source = gst::Buffer::from_mut_slice(pixels.collect::<Vec<u8>>());
        let target = info(format);
        let buffer = gst::Buffer::with_size(target.size()).unwrap();
        let mut frame = gst_video::VideoFrame::from_buffer_writable(buffer, &target).unwrap();
        let source = gst_video::VideoFrame::from_buffer_readable(source, &gray).unwrap();
        let converter = gst_video::VideoConverter::new(&gray, &target, None).unwrap();
        converter.frame(&source, &mut frame);
        frame.into_buffer()
    }

    #[test]
    fn a_cut_shows_in_every_format() {
        gst::init().unwrap();
        let mut direct = 0;
        let formats: Vec<_> = gst_video::VideoFormat::iter_raw().collect();
        for &format in &formats {
            let thumbnails = Thumbnails::new(&info(format));
            let thumbnails = thumbnails.unwrap_or_else(|| panic!("{format}"));
            direct += u32::from(matches!(thumbnails.way, Way::Luma(_)));
            let mut scenes = Scenes::default();
            let mut look = |seed| {
                let picture = thumbnails.of(&picture(seed, format)).unwrap();
                assert_eq!(
                    (picture.width, picture.samples.len()),
                    (20, 20 * 12),
                    "{format}"
                );
                scenes.look(picture)
            };
            assert_eq!(look(1), None);
            let still = look(1).unwrap();
            assert!(still.newness() < 0.3, "{format}: {still:?}");
            let cut = look(2).unwrap();
            assert!(cut.newness() > 0.8, "{format}: {cut:?}");
        }
        assert!(
            direct * 2 > formats.len() as u32,
            "{direct} of {}",
            formats.len()
        );
    }

    #[test]
    fn what_cannot_be_looked_at_is_said_so() {
        gst::init().unwrap();
        let can = |caps: &str| {
            let caps: gst::Caps = caps.parse().unwrap();
            Thumbnails::can_be_made(&caps)
        };
        let size = "width=64,height=48,framerate=25/1";
        assert!(can(&format!("video/x-raw,format=I420,{size}")));
        assert!(can(&format!("video/x-raw,format=v210,{size}")));
        assert!(!can(&format!(
            "video/x-raw(memory:GLMemory),format=RGBA,{size}"
        )));
        assert!(!can(&format!(
            "video/x-raw(memory:DMABuf),format=DMA_DRM,drm-format=NV12,{size}"
        )));
        let thumbnails = Thumbnails::new(&info(gst_video::VideoFormat::I420)).unwrap();
        let short = gst::Buffer::with_size(100).unwrap();
        assert_eq!(thumbnails.of(&short), None);
    }
}
