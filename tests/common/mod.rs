// SPDX-License-Identifier: MPL-2.0

//! What the tests share: starting GStreamer, running a pipeline without ever waiting for nothing, and looking at
//! what came out.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod pictures;
pub mod rig;
pub mod scripted;

use gst::prelude::*;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// No pipeline here takes nearly as long: one that does hangs.
const HANG: gst::ClockTime = gst::ClockTime::from_seconds(60);

pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstvtparallelenc::plugin_register_static().unwrap();
        scripted::register();
    });
}

/// What tests change belongs to the process: one of them at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    init();
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until it is so.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from(HANG), "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Threads of this process whose name begins so; of all of them, but for the one that GLib makes threads of its pools with, which
/// never ends. (The kernel keeps 15 characters.)
pub fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.flatten().map(|task| {
        // One that has just ended has no name.
        std::fs::read_to_string(task.path().join("comm")).unwrap_or_default()
    });
    let counts = |it: &String| it.starts_with(name) && it.trim_end() != "pool-spawner";
    names.filter(counts).count()
}

/// Calls back when the `nth` buffer passes the pad.
pub fn when_passed(pad: &gst::Pad, nth: usize) -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    let passed = AtomicUsize::new(0);
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        if passed.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            let _ = sender.send(());
        }
        gst::PadProbeReturn::Ok
    });
    receiver
}

/// Pushes these of the frames at a constant rate.
pub fn push(pipeline: &Pipeline, frames: std::ops::Range<u64>) {
    let times = constant(frames.end);
    for number in frames {
        let buffer = gray(number, times[number as usize]);
        app_src(pipeline).push_buffer(buffer).unwrap();
    }
}

/// A flushing seek to the beginning, to play up to then.
pub fn up_to(end: gst::ClockTime) -> gst::Event {
    gst::event::Seek::new(
        1.0,
        gst::SeekFlags::FLUSH,
        gst::SeekType::Set,
        gst::ClockTime::ZERO,
        gst::SeekType::Set,
        end,
    )
}

/// Plays another stream of so many frames, without the messages of the last one.
pub fn start_again(pipeline: &Pipeline, frames: u64) {
    let bus = pipeline.bus().unwrap();
    bus.set_flushing(true);
    bus.set_flushing(false);
    // (appsrc takes nothing before.)
    pipeline.set_state(gst::State::Playing).unwrap();
    push(pipeline, 0..frames);
    app_src(pipeline).end_of_stream().unwrap();
}

/// A pipeline that is shut down when it goes out of scope, so that a failed test leaves nothing running.
pub struct Pipeline(pub gst::Pipeline);

impl Deref for Pipeline {
    type Target = gst::Pipeline;
    fn deref(&self) -> &gst::Pipeline {
        &self.0
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

/// What a run ended with.
#[derive(Debug)]
pub enum End {
    Eos,
    Error {
        source: String,
        message: String,
        debug: String,
    },
}

impl End {
    pub fn expect_eos(self) {
        assert!(matches!(self, End::Eos), "{self:?}");
    }

    /// The error's text and debug text; panics if there was none.
    pub fn error(self) -> String {
        match self {
            End::Error { message, debug, .. } => format!("{message} [{debug}]"),
            End::Eos => panic!("no error"),
        }
    }
}

impl Pipeline {
    pub fn parse(description: &str) -> Self {
        init();
        let pipeline = gst::parse::launch(description).unwrap();
        Self(pipeline.downcast().unwrap())
    }

    pub fn element(&self, name: &str) -> gst::Element {
        self.by_name(name).unwrap()
    }

    /// Plays to the end or the first error.
    pub fn run(&self) -> End {
        if self.set_state(gst::State::Playing).is_err() {
            return self.end();
        }
        self.end()
    }

    pub fn end(&self) -> End {
        let types = [gst::MessageType::Eos, gst::MessageType::Error];
        let message = self.bus().unwrap().timed_pop_filtered(HANG, &types);
        match message.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Eos(_)) => End::Eos,
            Some(gst::MessageView::Error(error)) => End::Error {
                source: error
                    .src()
                    .map(|src| src.name().to_string())
                    .unwrap_or_default(),
                message: error.error().message().to_string(),
                debug: error
                    .debug()
                    .map(|debug| debug.to_string())
                    .unwrap_or_default(),
            },
            _ => panic!("the pipeline hangs"),
        }
    }

    /// The texts of all warnings from now on.
    pub fn warnings(&self) -> Arc<Mutex<Vec<String>>> {
        self.said(|message| match message.view() {
            gst::MessageView::Warning(warning) => Some(warning.error().message().to_string()),
            _ => None,
        })
    }

    /// The texts of all informations from now on.
    pub fn infos(&self) -> Arc<Mutex<Vec<String>>> {
        self.said(|message| match message.view() {
            gst::MessageView::Info(info) => Some(info.error().message().to_string()),
            _ => None,
        })
    }

    /// What of all messages from now on is kept.
    pub fn said<T: Send + 'static>(
        &self,
        of: impl Fn(&gst::Message) -> Option<T> + Send + Sync + 'static,
    ) -> Arc<Mutex<Vec<T>>> {
        let said = Arc::new(Mutex::new(Vec::new()));
        let kept = said.clone();
        self.bus().unwrap().set_sync_handler(move |_, message| {
            kept.lock().unwrap().extend(of(message));
            gst::BusSyncReply::Pass
        });
        said
    }

    pub fn stats(&self) -> gst::Structure {
        self.element("enc").property("stats")
    }
}

/// A packet that left.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub pts: Option<gst::ClockTime>,
    pub dts: Option<gst::ClockTime>,
    pub duration: Option<gst::ClockTime>,
    pub flags: gst::BufferFlags,
    /// PTS as running time.
    pub running_time: Option<gst::ClockTime>,
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = std::str::from_utf8(&self.bytes).unwrap_or("binary");
        let time = |time: Option<gst::ClockTime>| time.map_or("none".into(), |t| t.to_string());
        write!(
            f,
            "{text} pts {} dts {} {:?}",
            time(self.pts),
            time(self.dts),
            self.flags
        )
    }
}

impl Packet {
    /// Frame number of a packet of `scriptedenc`.
    pub fn frame(&self) -> u64 {
        let text = std::str::from_utf8(&self.bytes).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }

    pub fn is_key(&self) -> bool {
        !self.flags.contains(gst::BufferFlags::DELTA_UNIT)
    }
}

/// Everything that left through a pad.
#[derive(Debug, Default, Clone)]
pub struct Output {
    pub packets: Vec<Packet>,
    pub events: Vec<gst::Event>,
    segment: Option<gst::FormattedSegment<gst::ClockTime>>,
}

impl Output {
    pub fn bytes(&self) -> Vec<&[u8]> {
        self.packets
            .iter()
            .map(|packet| packet.bytes.as_slice())
            .collect()
    }

    /// The frame of each packet, in the order in which they left.
    pub fn frames(&self) -> Vec<u64> {
        self.packets.iter().map(Packet::frame).collect()
    }

    pub fn event_types(&self) -> Vec<gst::EventType> {
        self.events.iter().map(|event| event.type_()).collect()
    }

    /// DTS strictly increase and no DTS is after its PTS.
    pub fn assert_timestamps(&self) {
        let mut last = None;
        for packet in &self.packets {
            assert!(packet.dts.is_some(), "{packet:?}");
            assert!(packet.dts > last, "{packet:?} after {last:?}");
            assert!(packet.dts <= packet.pts, "{packet:?}");
            last = packet.dts;
        }
    }
}

/// Records what passes a pad.
pub fn record(pad: &gst::Pad) -> Arc<Mutex<Output>> {
    let output = Arc::new(Mutex::new(Output::default()));
    let kept = output.clone();
    let mask = gst::PadProbeType::BUFFER
        | gst::PadProbeType::EVENT_DOWNSTREAM
        | gst::PadProbeType::EVENT_FLUSH;
    pad.add_probe(mask, move |_, info| {
        let mut output = kept.lock().unwrap();
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                let segment = output.segment.as_ref();
                let running_time = segment
                    .zip(buffer.pts())
                    .and_then(|(segment, pts)| segment.to_running_time(pts));
                let packet = Packet {
                    bytes: buffer.map_readable().unwrap().to_vec(),
                    pts: buffer.pts(),
                    dts: buffer.dts(),
                    duration: buffer.duration(),
                    // What a buffer's memory is marked with is no property of the stream.
                    flags: buffer.flags() - gst::BufferFlags::TAG_MEMORY,
                    running_time,
                };
                output.packets.push(packet);
            }
            Some(gst::PadProbeData::Event(event)) => {
                if let gst::EventView::Segment(segment) = event.view() {
                    output.segment = segment.segment().downcast_ref().cloned();
                }
                output.events.push(event.clone());
            }
            _ => (),
        }
        gst::PadProbeReturn::Ok
    });
    output
}

/// Times of the frames that are put in.
pub type Times = Vec<(gst::ClockTime, Option<gst::ClockTime>)>;

/// `frames` frames at 25 per second.
pub fn constant(frames: u64) -> Times {
    let frame = gst::ClockTime::from_mseconds(40);
    (0..frames).map(|n| (frame * n, Some(frame))).collect()
}

pub const GRAY: &str =
    "video/x-raw,format=GRAY8,width=16,height=16,framerate=25/1,interlace-mode=progressive";

/// A picture for `scriptedenc`: 256 bytes, the frame's number first.
pub fn gray(number: u64, (pts, duration): (gst::ClockTime, Option<gst::ClockTime>)) -> gst::Buffer {
    let mut bytes = vec![0; 256];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    let mut buffer = gst::Buffer::from_slice(bytes);
    let times = buffer.get_mut().unwrap();
    times.set_pts(pts);
    times.set_duration(duration);
    buffer
}

/// A pipeline `appsrc ! {enc} ! appsink` for `scriptedenc` pictures; the encoder is named `enc`.
pub fn scripted_pipeline(encoder: &str) -> Pipeline {
    Pipeline::parse(&format!(
        "appsrc name=src format=time max-bytes=0 caps={} ! {encoder} ! fakesink name=sink sync=false",
        GRAY.replace(',', "\\,").replace("GRAY8", "(string)GRAY8")
    ))
}

/// The frames that are key frames in what an encoder makes of so many frames of `videotestsrc` with these settings and caps.
pub fn key_frames(frames: usize, source: &str, encoder: &str) -> Vec<usize> {
    let pipeline = Pipeline::parse(&format!(
        "videotestsrc num-buffers={frames} {source} ! {encoder} ! fakesink name=sink"
    ));
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    pipeline.run().expect_eos();
    let mut packets = output.lock().unwrap().packets.clone();
    assert_eq!(packets.len(), frames);
    packets.sort_by_key(|packet| packet.pts);
    let packets = packets.iter().enumerate();
    let keys = packets.filter(|(_, packet)| packet.is_key());
    keys.map(|(at, _)| at).collect()
}

pub fn app_src(pipeline: &Pipeline) -> gst_app::AppSrc {
    pipeline.element("src").downcast().unwrap()
}

/// Gives a scripted pipeline frames with these times, and the end.
pub fn feed(pipeline: &Pipeline, times: &Times) {
    let src = app_src(pipeline);
    for (number, &time) in times.iter().enumerate() {
        src.push_buffer(gray(number as u64, time)).unwrap();
    }
    src.end_of_stream().unwrap();
}

/// Encodes frames with these times through `encoder` (`vtparallelenc name=enc …`, or any other).
pub fn encode_times(encoder: &str, times: &Times) -> (End, Output, Option<gst::Structure>) {
    let pipeline = scripted_pipeline(encoder);
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    feed(&pipeline, times);
    let end = pipeline.run();
    let stats = pipeline.by_name("enc").map(|enc| enc.property("stats"));
    pipeline.set_state(gst::State::Null).unwrap();
    let output = output.lock().unwrap().clone();
    (end, output, stats)
}

/// Encodes `frames` frames at a constant rate with `vtparallelenc {properties}`; it must end well.
pub fn encode(properties: &str, frames: u64) -> Output {
    let (end, output, stats) = encode_times(
        &format!("vtparallelenc name=enc {properties}"),
        &constant(frames),
    );
    end.expect_eos();
    let stats = stats.unwrap();
    assert_eq!(stats.get::<u64>("bytes-held").unwrap(), 0, "{stats}");
    output
}

/// Runs this test again in a process of its own, whose end is looked at by GStreamer's leaks tracer. `true`: this is that process,
/// which runs this test alone and ends with `gst::deinit`.
pub fn leaves_nothing_behind(test: &str) -> bool {
    const INNER: &str = "VT_TEST_LEAKS";
    if std::env::var_os(INNER).is_some() {
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1"])
        .env(INNER, "1")
        .env("GST_TRACERS", "leaks(check-refs=true)")
        .env("GST_DEBUG", "GST_TRACER:7")
        .env("GST_DEBUG_NO_COLOR", "1")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{log}\n{said}");
    // The tracer was there: it says how it will speak.
    assert!(log.contains("new format string: object-alive"), "{log}");
    let alive: Vec<_> = log
        .lines()
        .filter(|line| line.contains("object-alive, ") && !line.contains("format string"))
        .collect();
    assert!(alive.is_empty(), "{alive:#?}");
    false
}

/// One of GStreamer's tools, with the plugin that cargo built with this test and put beside it, and a registry of its own in `dir`.
pub fn tool(dir: &std::path::Path, name: &str) -> std::process::Command {
    const PLUGIN: &str = "libgstvtparallelenc.so";
    let plugin = std::env::current_exe().unwrap().with_file_name(PLUGIN);
    assert!(plugin.exists(), "no {}", plugin.display());
    let plugins = dir.join("plugins");
    std::fs::create_dir_all(&plugins).unwrap();
    let link = plugins.join(PLUGIN);
    if !link.exists() {
        std::os::unix::fs::symlink(&plugin, link).unwrap();
    }
    let mut tool = std::process::Command::new(name);
    tool.env("GST_PLUGIN_PATH", &plugins)
        .env("GST_REGISTRY", dir.join("registry.bin"))
        // Warnings of the tool are its own.
        .env_remove("G_DEBUG");
    tool
}
