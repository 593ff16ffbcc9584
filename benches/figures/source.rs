// SPDX-License-Identifier: MPL-2.0

//! `stillsrc`: a source that costs next to nothing. It makes a few pictures at the beginning and sends them again and again, without
//! copying them.

use gst::glib;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_src::CreateSuccess;
use gst_base::subclass::prelude::*;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

/// What the source has seen of the process that it runs in.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// When the first frame was made.
    pub began: Option<Instant>,
    /// Memory in RAM when each part of the frames had been sent: the part in percent, and bytes.
    pub resident: Vec<(u64, u64)>,
}

static SEEN: Mutex<Seen> = Mutex::new(Seen {
    began: None,
    resident: Vec::new(),
});

pub fn seen() -> Seen {
    SEEN.lock().unwrap().clone()
}

/// After so many percent of the frames the source looks at the memory.
pub const LOOKS: [u64; 3] = [10, 50, 100];

/// Memory of this process that is in RAM.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let figure = line.and_then(|line| line.split_whitespace().nth(1));
    figure.and_then(|it| it.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Side of what the pictures are cut out of, beyond their own.
const MARGIN: usize = 64;

/// Something to look at that is soft, has noise in it, and is larger than a picture.
fn texture(width: usize, height: usize) -> Vec<u8> {
    let mut noise = 1u32;
    // A wave of triangles.
    let wave = |at: usize, length: usize| (at % length).abs_diff(length / 2) * 80 / length;
    let mut pixels = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in 0..width {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let soft = wave(x, 97) + wave(y, 131) + wave(x + y, 211);
            pixels.push((40 + soft) as u8 + (noise >> 29) as u8);
        }
    }
    pixels
}

/// Pictures of this format: a pan over the texture where that is easy to draw, otherwise one gray.
fn pictures(info: &gst_video::VideoInfo, count: usize) -> Vec<gst::Buffer> {
    let (width, height) = (info.width() as usize, info.height() as usize);
    let is_drawn = info.format() == gst_video::VideoFormat::I420;
    let across = width + MARGIN;
    let texture = match is_drawn {
        true => texture(across, height + MARGIN),
        false => Vec::new(),
    };
    let picture = |number: usize| {
        let mut bytes = vec![if is_drawn { 128 } else { 1 }; info.size()];
        if is_drawn {
            let stride = info.stride()[0] as usize;
            for y in 0..height {
                let from = (y + number % MARGIN) * across + 3 * number % MARGIN;
                bytes[y * stride..][..width].copy_from_slice(&texture[from..][..width]);
            }
        }
        gst::Buffer::from_slice(bytes)
    };
    (0..count).map(picture).collect()
}

mod imp {
    use super::*;
    use glib::Properties;

    #[derive(Debug, Clone, Default)]
    pub struct Settings {
        /// Pictures that come again and again.
        stills: u32,
        /// Each frame is in memory of its own.
        fresh: bool,
        /// Microseconds that a frame takes.
        time: u64,
    }

    #[derive(Default)]
    struct State {
        pictures: Vec<gst::Buffer>,
        /// Nanoseconds that a frame is shown.
        duration: gst::ClockTime,
        sent: u64,
        /// The next number of frames at which the memory is looked at.
        looks: Vec<(u64, u64)>,
        began: Option<Instant>,
    }

    #[derive(Default, Properties)]
    #[properties(wrapper_type = super::StillSrc)]
    pub struct StillSrc {
        #[property(name = "stills", get, set, type = u32, member = stills, blurb = "Pictures that come again and again.")]
        #[property(name = "fresh", get, set, type = bool, member = fresh, blurb = "Each frame is in memory of its own.")]
        #[property(name = "time", get, set, type = u64, member = time, blurb = "Microseconds that a frame takes.")]
        settings: Mutex<Settings>,
        state: Mutex<State>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for StillSrc {
        const NAME: &'static str = "VtStillSrc";
        type Type = super::StillSrc;
        type ParentType = gst_base::PushSrc;
    }

    impl StillSrc {
        /// All frames that are to be sent, if that is known.
        fn frames(&self) -> Option<u64> {
            u64::try_from(self.obj().property::<i32>("num-buffers")).ok()
        }
    }

    #[glib::derived_properties]
    impl ObjectImpl for StillSrc {
        fn constructed(&self) {
            self.parent_constructed();
            self.obj().set_format(gst::Format::Time);
        }
    }
    impl GstObjectImpl for StillSrc {}

    impl ElementImpl for StillSrc {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
                gst::subclass::ElementMetadata::new(
                    "Stills",
                    "Source/Video",
                    "Sends the same pictures again and again",
                    "The vtparallelenc developers",
                )
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let caps = gst_video::VideoCapsBuilder::new().build();
                let (direction, presence) = (gst::PadDirection::Src, gst::PadPresence::Always);
                vec![gst::PadTemplate::new("src", direction, presence, &caps).unwrap()]
            });
            &TEMPLATES
        }
    }

    impl BaseSrcImpl for StillSrc {
        fn set_caps(&self, caps: &gst::Caps) -> Result<(), gst::LoggableError> {
            let info = gst_video::VideoInfo::from_caps(caps)
                .map_err(|_| gst::loggable_error!(gst::CAT_RUST, "No raw video: {caps}"))?;
            let stills = self.settings.lock().unwrap().stills.max(1);
            let (numer, denom) = (info.fps().numer().max(1), info.fps().denom());
            let second = gst::ClockTime::SECOND;
            *self.state.lock().unwrap() = State {
                pictures: pictures(&info, stills as usize),
                duration: second * denom as u64 / numer as u64,
                sent: 0,
                looks: match self.frames() {
                    Some(all) => LOOKS.map(|part| (part, all * part / 100)).to_vec(),
                    None => Vec::new(),
                },
                began: None,
            };
            self.parent_set_caps(caps)
        }

        fn query(&self, query: &mut gst::QueryRef) -> bool {
            if let gst::QueryViewMut::Duration(duration) = query.view_mut()
                && let Some(frames) = self.frames()
                && duration.format() == gst::Format::Time
            {
                let frame = self.state.lock().unwrap().duration;
                duration.set(frame * frames);
                return true;
            }
            BaseSrcImplExt::parent_query(self, query)
        }
    }

    impl PushSrcImpl for StillSrc {
        fn create(
            &self,
            _buffer: Option<&mut gst::BufferRef>,
        ) -> Result<CreateSuccess, gst::FlowError> {
            let Settings { fresh, time, .. } = *self.settings.lock().unwrap();
            let mut state = self.state.lock().unwrap();
            let number = state.sent;
            let began = *state.began.get_or_insert_with(|| {
                let now = Instant::now();
                SEEN.lock().unwrap().began = Some(now);
                now
            });
            if time > 0 {
                let due = began + Duration::from_micros(time) * (number as u32 + 1);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let picture = &state.pictures[number as usize % state.pictures.len()];
            let mut buffer = match fresh {
                true => picture.copy_deep().map_err(|_| gst::FlowError::Error)?,
                false => picture.copy(),
            };
            {
                // PANIC: it was just made.
                let buffer = buffer.get_mut().unwrap();
                buffer.set_pts(state.duration * number);
                buffer.set_duration(state.duration);
            }
            state.sent += 1;
            let sent = state.sent;
            if let Some(&(part, _)) = state.looks.first().filter(|(_, frames)| sent >= *frames) {
                state.looks.remove(0);
                let mut seen = SEEN.lock().unwrap();
                seen.resident.push((part, resident_bytes()));
            }
            Ok(CreateSuccess::NewBuffer(buffer))
        }
    }
}

glib::wrapper! {
    pub struct StillSrc(ObjectSubclass<imp::StillSrc>)
        @extends gst_base::PushSrc, gst_base::BaseSrc, gst::Element, gst::Object;
}

pub fn register() {
    gst::Element::register(None, "stillsrc", gst::Rank::NONE, StillSrc::static_type()).unwrap();
}

/// A source of so many frames of this size, with these properties.
pub fn stills(frames: u64, size: (u32, u32), properties: &str) -> String {
    let (width, height) = size;
    // GStreamer keeps a list of all buffers that share a memory, and looks through it for each that goes. To copy a tiny picture
    // costs less.
    let fresh = size == TINY;
    format!(
        "stillsrc num-buffers={frames} fresh={fresh} {properties} ! \
         video/x-raw,format=I420,width={width},height={height},framerate=25/1"
    )
}

/// Small pictures, for what depends on their number alone.
pub const TINY: (u32, u32) = (16, 16);
pub const FULL_HD: (u32, u32) = (1920, 1080);

/// Takes all that comes, at once.
pub const SINK: &str = "fakesink name=sink async=false sync=false";
