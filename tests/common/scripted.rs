// SPDX-License-Identifier: MPL-2.0

//! `scriptedenc`: a real GstVideoEncoder that does what a test tells it to.
//!
//! Its packets are text: `{frame} {kind} {nth} {refs}`, where *nth* counts frames since the last key frame, and *refs* is what
//! this encoder has seen since then, as a hash. So a packet tells which frame it is, and it differs if its
//! encoder was fed other frames before it, as those of a real encoder do.
//!
//! The frame number is read from the first 8 bytes of the picture. No frame sleeps: it waits at a [`Gate`] until the test
//! opens that.

use gst::glib;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, LazyLock, Mutex};

/// Stops frames inside an encoder until the test lets them through.
#[derive(Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    /// Frames that may pass.
    permits: u64,
    /// The gate is gone: all pass.
    open: bool,
    /// Frames that stand before it.
    waiting: Vec<u64>,
}

static GATES: LazyLock<Mutex<BTreeMap<String, Arc<Gate>>>> = LazyLock::new(Default::default);

impl Gate {
    /// The gate of this name, for encoders with `gate=name`.
    pub fn named(name: &str) -> Arc<Gate> {
        GATES
            .lock()
            .unwrap()
            .entry(name.to_string())
            .or_default()
            .clone()
    }

    pub fn let_pass(&self, frames: u64) {
        self.state.lock().unwrap().permits += frames;
        self.changed.notify_all();
    }

    pub fn open(&self) {
        self.state.lock().unwrap().open = true;
        self.changed.notify_all();
    }

    /// Blocks the test until `count` frames stand before the gate; returns them.
    pub fn wait_for(&self, count: usize) -> Vec<u64> {
        let state = self.state.lock().unwrap();
        let state = self
            .changed
            .wait_while(state, |state| state.waiting.len() < count)
            .unwrap();
        state.waiting.clone()
    }

    /// So many stand before the gate.
    pub fn stands(&self, count: usize) -> bool {
        self.state.lock().unwrap().waiting.len() >= count
    }

    fn pass(&self, frame: u64) {
        let mut state = self.state.lock().unwrap();
        state.waiting.push(frame);
        self.changed.notify_all();
        let mut state = self
            .changed
            .wait_while(state, |state| !state.open && state.permits == 0)
            .unwrap();
        state.permits = state.permits.saturating_sub(1);
        state.waiting.retain(|&waiting| waiting != frame);
    }
}

/// How often encoders of a script name came to the place of its fault.
static FAULTS: LazyLock<Mutex<BTreeMap<String, u32>>> = LazyLock::new(Default::default);

/// The gate at which encoders of a script name hang. It has to be opened in the end.
pub fn hanging(name: &str) -> Arc<Gate> {
    Gate::named(&format!("{name} hangs"))
}

/// Lets go of what hangs when it goes out of scope.
pub struct Release(pub String);

impl Drop for Release {
    fn drop(&mut self) {
        hanging(&self.0).open();
    }
}

/// How many are open, by script name.
static OPEN: LazyLock<Mutex<BTreeMap<String, u32>>> = LazyLock::new(Default::default);

/// How often a failure that is told to happen `times` has happened, by script name.
static FAILURES: LazyLock<Mutex<BTreeMap<String, u32>>> = LazyLock::new(Default::default);

pub const CAPS: &str = "video/x-scripted";

mod imp {
    use super::*;
    use glib::Properties;

    #[derive(Debug, Clone, Default)]
    pub struct Script {
        /// Frames shown before each P frame but sent after it.
        bframes: u32,
        /// Frames held back before the first leaves.
        look_ahead: u32,
        /// Forced key frames are not made.
        ignore_keys: bool,
        /// No packet is marked as a key frame.
        mark_none: bool,
        /// Timestamps are not moved to 1000 hours. (GstVideoEncoder 1.22 loses force-key-unit events where they are.)
        keep_times: bool,
        /// Frames before a forced key frame refer to it.
        open_gop: bool,
        /// Announces no reordering by its DTS.
        plain_dts: bool,
        /// Every so many frames is skipped, and said to be.
        skip_every: u64,
        /// This frame is lost without a word.
        lose: i64,
        /// This frame is sent twice.
        double: i64,
        /// This frame is an error.
        fail_at: i64,
        /// How often it is, over all encoders with this `name_of_failure`; 0: always.
        fail_times: u32,
        name_of_failure: String,
        gate: Option<String>,
        /// No more than so many with this `name_of_failure` are open at once; 0: any number.
        max_open: u32,
        /// One too many fails with its first frame, not when it is opened.
        opens_late: bool,
        /// Milliseconds that opening it takes.
        open_ms: u32,
        /// Written into each packet.
        bitrate: u32,
        /// What goes wrong and where: `error@frame`, `hang@open`.
        ///
        /// What: error, flow (without a message), hang, end (an early EOS), panic, lose, double, shift (other timestamps), garbage
        /// (timestamps from nowhere), late (a packet after EOS), mute (no packet any more), untie (no EOS). Where: device (NULL to
        /// READY), open (to PAUSED), frame (`fault-frame`), end (its EOS), finish, close (to READY), undevice (to NULL).
        fault: Option<String>,
        fault_frame: u64,
        /// At that frame of every so many; 0: only there.
        fault_every: u64,
        /// It happens so often, over all encoders with this `failure`, after it didn't so often.
        fault_times: u32,
        fault_skips: u32,
        /// Describes itself differently each time.
        vary_caps: bool,
        /// Its packets are others each time.
        vary_packets: bool,
        refuse_caps: bool,
        /// What its caps say of this, once they come.
        alignment: Option<String>,
        /// One in so many frames fails, each in one way, the first time that an encoder with this `failure` gets it; 0: none. It
        /// is the same ones in each run.
        fail_one_in: u64,
    }

    /// Which frames with `fail-one-in` have failed, by script name.
    static FAILED: LazyLock<Mutex<BTreeMap<String, std::collections::BTreeSet<u64>>>> =
        LazyLock::new(Mutex::default);

    /// A number as random as its frame's is not (splitmix64).
    fn scattered(number: u64) -> u64 {
        let mut it = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        it ^ (it >> 31)
    }

    static INSTANCES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

    #[derive(Default)]
    struct State {
        /// Which of all encoders it is.
        instance: u32,
        /// Frames that are in, in order: their number in the base class, their number, key.
        pending: Vec<(u32, u64, bool)>,
        /// A key frame is due: at the start, or because the one that was due was skipped.
        key_due: bool,
        since_key: u64,
        hash: u64,
        count: u64,
        times: Vec<gst::ClockTime>,
        sent: usize,
        /// It counts among the open ones.
        is_open: bool,
        is_too_many: bool,
        /// No packet is made any more.
        is_mute: bool,
        /// The next packet is lost, sent twice, or all later than they should by so many nanoseconds.
        loses: bool,
        doubles: bool,
        shift: u64,
        /// Downstream never hears of the end.
        keeps_end: bool,
    }

    #[derive(Properties, Default)]
    #[properties(wrapper_type = super::ScriptedEnc)]
    pub struct ScriptedEnc {
        #[property(name = "bframes", get, set, type = u32, member = bframes)]
        #[property(name = "look-ahead", get, set, type = u32, member = look_ahead)]
        #[property(name = "ignore-keys", get, set, type = bool, member = ignore_keys)]
        #[property(name = "mark-none", get, set, type = bool, member = mark_none)]
        #[property(name = "keep-times", get, set, type = bool, member = keep_times)]
        #[property(name = "open-gop", get, set, type = bool, member = open_gop)]
        #[property(name = "plain-dts", get, set, type = bool, member = plain_dts)]
        #[property(name = "skip-every", get, set, type = u64, member = skip_every)]
        #[property(name = "lose", get, set, type = i64, member = lose, default = -1)]
        #[property(name = "double", get, set, type = i64, member = double, default = -1)]
        #[property(name = "fail-at", get, set, type = i64, member = fail_at, default = -1)]
        #[property(name = "fail-times", get, set, type = u32, member = fail_times)]
        #[property(name = "failure", get, set, type = String, member = name_of_failure)]
        #[property(name = "gate", get, set, type = Option<String>, member = gate)]
        #[property(name = "max-open", get, set, type = u32, member = max_open)]
        #[property(name = "opens-late", get, set, type = bool, member = opens_late)]
        #[property(name = "open-ms", get, set, type = u32, member = open_ms)]
        #[property(name = "bitrate", get, set, type = u32, member = bitrate)]
        #[property(name = "fault", get, set, type = Option<String>, member = fault)]
        #[property(name = "fault-frame", get, set, type = u64, member = fault_frame)]
        #[property(name = "fault-every", get, set, type = u64, member = fault_every)]
        #[property(name = "fault-times", get, set, type = u32, member = fault_times, default = 1)]
        #[property(name = "fault-skips", get, set, type = u32, member = fault_skips)]
        #[property(name = "vary-caps", get, set, type = bool, member = vary_caps)]
        #[property(name = "vary-packets", get, set, type = bool, member = vary_packets)]
        #[property(name = "fail-one-in", get, set, type = u64, member = fail_one_in)]
        #[property(name = "alignment", get, set, type = Option<String>, member = alignment)]
        #[property(name = "refuse-caps", get, set, type = bool, member = refuse_caps)]
        script: Mutex<Script>,
        state: Mutex<State>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for ScriptedEnc {
        const NAME: &'static str = "VtTestScriptedEnc";
        type Type = super::ScriptedEnc;
        type ParentType = gst_video::VideoEncoder;

        fn new() -> Self {
            Self {
                script: Mutex::new(Script {
                    lose: -1,
                    double: -1,
                    fail_at: -1,
                    fault_times: 1,
                    ..Script::default()
                }),
                state: Mutex::default(),
            }
        }
    }

    #[glib::derived_properties]
    impl ObjectImpl for ScriptedEnc {}
    impl GstObjectImpl for ScriptedEnc {}

    impl ElementImpl for ScriptedEnc {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
                gst::subclass::ElementMetadata::new("Test", "Codec/Encoder/Video", "Test", "Test")
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let always = gst::PadPresence::Always;
                let mut raw = gst::Caps::new_empty_simple("video/x-raw");
                // As hardware encoders take what is in their memory, and fields.
                for feature in ["memory:VtTest", "format:Interlaced"] {
                    raw.merge(
                        gst::Caps::builder("video/x-raw")
                            .features([feature])
                            .build(),
                    );
                }
                let out = gst::Caps::new_empty_simple(CAPS);
                vec![
                    gst::PadTemplate::new("sink", gst::PadDirection::Sink, always, &raw).unwrap(),
                    gst::PadTemplate::new("src", gst::PadDirection::Src, always, &out).unwrap(),
                ]
            });
            &TEMPLATES
        }
    }

    impl VideoEncoderImpl for ScriptedEnc {
        fn open(&self) -> Result<(), gst::ErrorMessage> {
            self.fault_of_device("device")
        }

        fn close(&self) -> Result<(), gst::ErrorMessage> {
            self.fault_of_device("undevice")
        }

        fn start(&self) -> Result<(), gst::ErrorMessage> {
            let script = self.script.lock().unwrap().clone();
            std::thread::sleep(std::time::Duration::from_millis(script.open_ms.into()));
            if script.max_open > 0 {
                let mut open = OPEN.lock().unwrap();
                let open = open.entry(script.name_of_failure.clone()).or_default();
                if *open >= script.max_open && !script.opens_late {
                    return Err(gst::error_msg!(
                        gst::ResourceError::Busy,
                        ["scripted limit of {} reached", script.max_open]
                    ));
                }
                *open += 1;
                let mut state = self.state.lock().unwrap();
                state.is_open = true;
                state.is_too_many = *open > script.max_open;
            }
            let State {
                is_open,
                is_too_many,
                ..
            } = *self.state.lock().unwrap();
            *self.state.lock().unwrap() = State {
                key_due: true,
                is_open,
                is_too_many,
                ..State::default()
            };
            if self.fault(&script, "open").is_err() {
                return Err(gst::error_msg!(
                    gst::ResourceError::Busy,
                    ["scripted fault"]
                ));
            }
            if !script.keep_times {
                // As every GStreamer encoder with B-frames does.
                self.obj()
                    .set_min_pts(gst::ClockTime::from_seconds(3_600_000));
            }
            Ok(())
        }

        fn stop(&self) -> Result<(), gst::ErrorMessage> {
            if std::mem::take(&mut self.state.lock().unwrap().is_open) {
                let name = self.script.lock().unwrap().name_of_failure.clone();
                *OPEN.lock().unwrap().entry(name).or_default() -= 1;
            }
            let script = self.script.lock().unwrap().clone();
            let closed = self.fault(&script, "close");
            closed.map_err(|_| gst::error_msg!(gst::ResourceError::Close, ["scripted fault"]))?;
            Ok(())
        }

        fn set_format(
            &self,
            state: &gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>,
        ) -> Result<(), gst::LoggableError> {
            let script = self.script.lock().unwrap().clone();
            if self.fault(&script, "format").is_err() {
                return Err(gst::loggable_error!(gst::CAT_RUST, "scripted fault"));
            }
            if script.refuse_caps {
                return Err(gst::loggable_error!(gst::CAT_RUST, "refused by script"));
            }
            let mut caps = gst::Caps::new_empty_simple(CAPS);
            let instance = INSTANCES.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            self.state.lock().unwrap().instance = instance;
            if script.vary_caps {
                caps.make_mut().set("instance", instance);
            }
            if let Some(alignment) = &script.alignment {
                caps.make_mut().set("alignment", alignment);
            }
            let obj = self.obj();
            let output = obj
                .set_output_state(caps, Some(state))
                .map_err(|_| gst::loggable_error!(gst::CAT_RUST, "no output state"))?;
            obj.negotiate(output)
                .map_err(|_| gst::loggable_error!(gst::CAT_RUST, "not negotiated"))
        }

        fn handle_frame(
            &self,
            frame: gst_video::VideoCodecFrame<'_>,
        ) -> Result<gst::FlowSuccess, gst::FlowError> {
            let script = self.script.lock().unwrap().clone();
            let number = {
                let input = frame.input_buffer().unwrap().map_readable().unwrap();
                u64::from_le_bytes(input[..8].try_into().unwrap())
            };
            if let Some(gate) = &script.gate {
                Gate::named(gate).pass(number);
            }
            if self.state.lock().unwrap().is_too_many {
                gst::element_imp_error!(self, gst::ResourceError::Busy, ["scripted limit reached"]);
                return Err(gst::FlowError::Error);
            }
            let in_turn = match script.fault_every {
                0 => number,
                every => number % every,
            };
            if script.fault_frame == in_turn {
                self.fault(&script, "frame")?;
            }
            self.fail_by_chance(&script, number)?;
            if script.fail_at == number as i64 && self.fails(&script) {
                gst::element_imp_error!(
                    self,
                    gst::StreamError::Encode,
                    ["scripted failure at frame {number}"]
                );
                return Err(gst::FlowError::Error);
            }
            let forced = frame
                .flags()
                .contains(gst_video::VideoCodecFrameFlags::FORCE_KEYFRAME)
                && !script.ignore_keys;
            if script.skip_every > 0 && number % script.skip_every == script.skip_every - 1 {
                self.state.lock().unwrap().key_due |= forced;
                // No output: the base class says so in a QoS message.
                return self.obj().finish_frame(frame);
            }
            let system = frame.system_frame_number();
            let pts = frame.pts().unwrap_or_default();
            drop(frame);
            {
                let mut state = self.state.lock().unwrap();
                let key = std::mem::take(&mut state.key_due) || forced;
                state.times.push(pts);
                state.pending.push((system, number, key));
            }
            self.work(&script, false)
        }

        fn sink_event(&self, event: gst::Event) -> bool {
            if event.type_() == gst::EventType::Eos {
                let script = self.script.lock().unwrap().clone();
                if self.fault(&script, "end").is_err() {
                    return false;
                }
                if self.state.lock().unwrap().keeps_end {
                    return self.work(&script, true).is_ok();
                }
            }
            self.parent_sink_event(event)
        }

        fn flush(&self) -> bool {
            let mut state = self.state.lock().unwrap();
            let is_open = state.is_open;
            *state = State {
                key_due: true,
                is_open,
                ..State::default()
            };
            true
        }

        fn finish(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
            let script = self.script.lock().unwrap().clone();
            self.fault(&script, "finish")?;
            self.work(&script, true)
        }
    }

    impl ScriptedEnc {
        fn fault_of_device(&self, place: &str) -> Result<(), gst::ErrorMessage> {
            let script = self.script.lock().unwrap().clone();
            self.fault(&script, place)
                .map_err(|_| gst::error_msg!(gst::ResourceError::Busy, ["scripted fault"]))
        }

        /// The fault, if it is to happen here. An error is what the function returns.
        fn fault(&self, script: &Script, place: &str) -> Result<(), gst::FlowError> {
            let what = script.fault.as_deref().and_then(|it| it.split_once('@'));
            let Some((what, _)) = what.filter(|(_, at)| *at == place) else {
                return Ok(());
            };
            {
                let mut faults = FAULTS.lock().unwrap();
                let count = faults.entry(script.name_of_failure.clone()).or_default();
                *count += 1;
                let from = script.fault_skips;
                if !(from < *count && *count <= from.saturating_add(script.fault_times)) {
                    return Ok(());
                }
            }
            self.happens(script, what)
        }

        /// This frame's failure, if it is one of those that fail.
        fn fail_by_chance(&self, script: &Script, number: u64) -> Result<(), gst::FlowError> {
            let dice = scattered(number);
            if script.fail_one_in == 0 || !dice.is_multiple_of(script.fail_one_in) {
                return Ok(());
            }
            let is_first = {
                let mut failed = FAILED.lock().unwrap();
                let failed = failed.entry(script.name_of_failure.clone()).or_default();
                failed.insert(number)
            };
            const WAYS: [&str; 6] = ["error", "flow", "lose", "double", "garbage", "end"];
            let way = WAYS[(dice / script.fail_one_in) as usize % WAYS.len()];
            match is_first {
                true => self.happens(script, way),
                false => Ok(()),
            }
        }

        fn happens(&self, script: &Script, what: &str) -> Result<(), gst::FlowError> {
            let obj = self.obj();
            let src = obj.src_pad();
            let late = || {
                let mut late = gst::Buffer::from_slice(*b"late");
                late.get_mut().unwrap().set_pts(gst::ClockTime::SECOND);
                late
            };
            match what {
                "error" => {
                    gst::element_imp_error!(self, gst::StreamError::Encode, ["scripted fault"]);
                    return Err(gst::FlowError::Error);
                }
                "flow" => return Err(gst::FlowError::Error),
                "hang" => hanging(&script.name_of_failure).pass(u64::MAX),
                // Without a word on stderr, where it would hide a failed test's.
                "panic" => std::panic::resume_unwind(Box::new("scripted panic")),
                "mute" => self.state.lock().unwrap().is_mute = true,
                "lose" => self.state.lock().unwrap().loses = true,
                "double" => self.state.lock().unwrap().doubles = true,
                "shift" => self.state.lock().unwrap().shift = 1_000_000,
                "garbage" => self.state.lock().unwrap().shift = i64::MAX as u64,
                "end" => drop(src.push_event(gst::event::Eos::new())),
                "late" => {
                    src.push_event(gst::event::Eos::new());
                    let _ = src.push(late());
                }
                "untie" => self.state.lock().unwrap().keeps_end = true,
                _ => panic!("no such fault: {what}"),
            }
            Ok(())
        }

        fn fails(&self, script: &Script) -> bool {
            let mut failures = FAILURES.lock().unwrap();
            let count = failures.entry(script.name_of_failure.clone()).or_default();
            *count += 1;
            script.fail_times == 0 || *count <= script.fail_times
        }

        /// Sends as many mini-GOPs as the script allows.
        fn work(&self, script: &Script, drain: bool) -> Result<gst::FlowSuccess, gst::FlowError> {
            loop {
                let mut group = {
                    let mut state = self.state.lock().unwrap();
                    let pending = state.pending.len();
                    let held = if drain { 0 } else { script.look_ahead as usize };
                    let full = script.bframes as usize + 1;
                    if pending == 0 {
                        return Ok(gst::FlowSuccess::Ok);
                    }
                    // A key frame ends the group before it; it stands alone.
                    let key = state.pending.iter().position(|&(_, _, key)| key);
                    let size = match key {
                        Some(0) => 1,
                        Some(at) if script.open_gop && at < full => at + 1,
                        Some(at) => at.min(full),
                        None if drain => full.min(pending),
                        None => full,
                    };
                    if pending < size + held {
                        return Ok(gst::FlowSuccess::Ok);
                    }
                    state.pending.drain(..size).collect::<Vec<_>>()
                };
                group.rotate_right(1);
                for (system, number, key) in group {
                    self.send(script, system, number, key)?;
                }
            }
        }

        fn send(
            &self,
            script: &Script,
            system: u32,
            number: u64,
            key: bool,
        ) -> Result<gst::FlowSuccess, gst::FlowError> {
            let obj = self.obj();
            let mut frame = obj.frame(system as i32).unwrap();
            let (text, dts) = {
                let mut state = self.state.lock().unwrap();
                state.since_key = if key { 0 } else { state.since_key + 1 };
                state.hash = if key { 0 } else { state.hash };
                state.hash = state.hash.wrapping_mul(31).wrapping_add(number + 1);
                state.count += 1;
                // As x264 makes it: the presentation times in order, delayed by the reordering.
                let depth = usize::from(script.bframes > 0);
                let sent = state.sent;
                state.sent += 1;
                let dts = match sent.checked_sub(depth) {
                    Some(index) => state.times[index],
                    None => {
                        let delay = state
                            .times
                            .get(depth)
                            .map_or(gst::ClockTime::ZERO, |time| *time - state.times[0]);
                        state.times[sent] - delay
                    }
                };
                let kind = if key { "key" } else { "delta" };
                let rate = match script.bitrate {
                    0 => String::new(),
                    rate => format!(" at {rate}"),
                };
                let text = format!("{number} {kind} {} {:x}{rate}", state.since_key, state.hash);
                let text = match script.vary_packets {
                    true => format!("{text} of {}", state.instance),
                    false => text,
                };
                (text, dts)
            };
            let (loses, doubles, shift) = {
                let mut state = self.state.lock().unwrap();
                let lost = state.is_mute || std::mem::take(&mut state.loses);
                (lost, std::mem::take(&mut state.doubles), state.shift)
            };
            if loses {
                return Ok(gst::FlowSuccess::Ok);
            }
            if shift > 0
                && let Some(pts) = frame.pts()
            {
                frame.set_pts(pts.saturating_add(gst::ClockTime::from_nseconds(shift)));
            }
            if script.lose == number as i64 {
                // Stays in the base class, which does not miss it.
                return Ok(gst::FlowSuccess::Ok);
            }
            let mut flags = frame.flags();
            let key = key && !script.mark_none;
            flags.set(gst_video::VideoCodecFrameFlags::SYNC_POINT, key);
            frame.set_flags(flags);
            if !key {
                frame.unset_flags(gst_video::VideoCodecFrameFlags::SYNC_POINT);
            }
            if !script.plain_dts && frame.pts().is_some() {
                frame.set_dts(dts);
            }
            let again = (script.double == number as i64 || doubles).then(|| {
                let mut again = gst::Buffer::from_slice(text.clone().into_bytes());
                let times = again.get_mut().unwrap();
                times.set_pts(frame.pts());
                times.set_dts(frame.pts());
                times.set_flags(gst::BufferFlags::DELTA_UNIT);
                again
            });
            frame.set_output_buffer(gst::Buffer::from_slice(text.into_bytes()));
            obj.finish_frame(frame)?;
            again.map_or(Ok(gst::FlowSuccess::Ok), |again| obj.src_pad().push(again))
        }
    }
}

glib::wrapper! {
    pub struct ScriptedEnc(ObjectSubclass<imp::ScriptedEnc>)
        @extends gst_video::VideoEncoder, gst::Element, gst::Object;
}

pub fn register() {
    gst::Element::register(
        None,
        "scriptedenc",
        gst::Rank::NONE,
        ScriptedEnc::static_type(),
    )
    .unwrap();
    gst::Element::register(
        None,
        "hintedenc",
        gst::Rank::NONE,
        hinted::HintedEnc::static_type(),
    )
    .unwrap();
}

// SAFETY: the class structure is GstVideoEncoder's.
unsafe impl<T: VideoEncoderImpl + ObjectSubclass<Type: IsA<ScriptedEnc>>> IsSubclassable<T>
    for ScriptedEnc
{
}

/// What each `hintedenc` was told before it began: by the name of its `failure`, in the order of their beginning.
pub static HINTS: LazyLock<Mutex<BTreeMap<String, Vec<String>>>> = LazyLock::new(Default::default);

/// `hintedenc`: a `scriptedenc` with VideoToolbox's properties.
pub mod hinted {
    use super::*;
    use glib::Properties;

    #[derive(Debug, Clone, Default)]
    pub struct Hints {
        before: bool,
        after: bool,
        frames: u64,
        rate: f64,
        limit: u32,
        minimum_frames: u32,
        minimum_duration: u64,
    }

    #[derive(Properties, Default)]
    #[properties(wrapper_type = HintedEnc)]
    pub struct Imp {
        #[property(name = "more-frames-before-start", get, set, type = bool, member = before)]
        #[property(name = "more-frames-after-end", get, set, type = bool, member = after)]
        #[property(name = "source-frame-count", get, set, type = u64, member = frames)]
        #[property(name = "expected-frame-rate", get, set, type = f64, member = rate)]
        #[property(name = "recommended-parallelization-limit", get, set, type = u32, member = limit)]
        #[property(name = "recommended-parallelized-subdivision-minimum-frame-count", get, set, type = u32,
            member = minimum_frames)]
        #[property(name = "recommended-parallelized-subdivision-minimum-duration", get, set, type = u64,
            member = minimum_duration)]
        hints: Mutex<Hints>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Imp {
        const NAME: &'static str = "VtTestHintedEnc";
        type Type = HintedEnc;
        type ParentType = ScriptedEnc;
    }

    #[glib::derived_properties]
    impl ObjectImpl for Imp {}
    impl GstObjectImpl for Imp {}
    impl ElementImpl for Imp {}

    impl VideoEncoderImpl for Imp {
        fn set_format(
            &self,
            state: &gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>,
        ) -> Result<(), gst::LoggableError> {
            let hints = self.hints.lock().unwrap().clone();
            let name: String = self.obj().property("failure");
            HINTS.lock().unwrap().entry(name).or_default().push(format!(
                "{} {} {} {}",
                hints.before, hints.after, hints.frames, hints.rate
            ));
            self.parent_set_format(state)
        }

        fn handle_frame(
            &self,
            frame: gst_video::VideoCodecFrame<'_>,
        ) -> Result<gst::FlowSuccess, gst::FlowError> {
            use glib::translate::ToGlibPtr;
            // SAFETY: the parent's function takes the frame over, but the binding (0.25) lends it and lets it go as well.
            unsafe { gst_video::ffi::gst_video_codec_frame_ref(frame.to_glib_none().0) };
            self.parent_handle_frame(frame)
        }
    }

    glib::wrapper! {
        pub struct HintedEnc(ObjectSubclass<Imp>)
            @extends ScriptedEnc, gst_video::VideoEncoder, gst::Element, gst::Object;
    }
}
