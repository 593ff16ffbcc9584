// SPDX-License-Identifier: MPL-2.0

//! Input that can't be trusted: whatever comes ends in an error, or as with the plain encoder. (Tests run with overflow checks; a panic
//! in an element is an error message that says so.)

mod common;

use common::rig::Rig;
use common::{GRAY, gray};
use gst::prelude::*;

/// No run here takes nearly as long: one that does hangs.
const HANG: gst::ClockTime = gst::ClockTime::from_seconds(60);

/// What came of a run.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// It ended with EOS after this.
    Ended(Vec<String>),
    /// An error was posted, or upstream was told of one.
    Failed(String),
}

/// Sends whatever it is told to, whether it is taken or not.
struct Stranger {
    rig: Rig,
    /// What was refused first.
    refused: std::cell::RefCell<Option<String>>,
}

impl Stranger {
    fn new(encoder: &str) -> Self {
        let rig = Rig::bare(encoder);
        let bus = rig.enc.bus().unwrap();
        rig.sink
            .add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
                if info
                    .event()
                    .is_some_and(|it| it.type_() == gst::EventType::Eos)
                {
                    let end = gst::Structure::new_empty("end");
                    bus.post(gst::message::Application::new(end)).unwrap();
                }
                gst::PadProbeReturn::Ok
            });
        Self {
            rig,
            refused: Default::default(),
        }
    }

    fn send(&self, event: gst::Event) {
        let kind = event.type_();
        if !self.rig.src.push_event(event) {
            self.refused
                .borrow_mut()
                .get_or_insert(format!("{kind:?} was refused"));
        }
    }

    fn begin(&self, caps: &str, segment: &gst::FormattedSegment<gst::ClockTime>) {
        self.send(gst::event::StreamStart::new("stranger"));
        self.caps(caps);
        self.send(gst::event::Segment::new(segment));
    }

    fn caps(&self, caps: &str) {
        self.send(gst::event::Caps::new(&caps.parse::<gst::Caps>().unwrap()));
    }

    fn push(&self, buffer: gst::Buffer) {
        // Upstream stops where it is refused. (GstVideoEncoder forgets the events before a frame that fails.)
        if self.refused.borrow().is_some() {
            return;
        }
        if let Err(flow) = self.rig.src.push(buffer) {
            self.refused
                .borrow_mut()
                .get_or_insert(format!("a frame was refused: {flow:?}"));
        }
    }

    fn push_gray(&self, numbers: impl IntoIterator<Item = u64>) {
        let frame = gst::ClockTime::from_mseconds(40);
        for number in numbers {
            self.push(gray(number, (frame * number, Some(frame))));
        }
    }

    fn finish(self) -> Outcome {
        self.send(gst::event::Eos::new());
        let types = [gst::MessageType::Error, gst::MessageType::Application];
        let bus = self.rig.enc.bus().unwrap();
        let refused = self.refused.take();
        // What was refused is upstream's to report: it need not end.
        let text = |message: &gst::Message| match message.view() {
            gst::MessageView::Error(error) => {
                Some(format!("{} [{:?}]", error.error(), error.debug()))
            }
            _ => None,
        };
        let first = match refused {
            Some(_) => None,
            None => Some(bus.timed_pop_filtered(HANG, &types).expect("it hangs")),
        };
        // An error before the end or after it.
        let later = self.rig.messages(&types).into_iter();
        let errors: Vec<_> = first
            .into_iter()
            .chain(later)
            .filter_map(|it| text(&it))
            .collect();
        for error in &errors {
            assert!(!error.contains("Panicked"), "{error}");
        }
        let error = errors.into_iter().next().or(refused);
        match error {
            Some(error) => Outcome::Failed(error),
            None => {
                // The end is counted when it was taken, and seen before.
                self.rig.wait_for_end();
                Outcome::Ended(self.rig.story())
            }
        }
    }
}

fn run(encoder: &str, act: &dyn Fn(&Stranger)) -> Outcome {
    let stranger = Stranger::new(encoder);
    act(&stranger);
    stranger.finish()
}

/// Where the plain encoder ends well, ours ends in the same way, or says that it can't hold the frames; where it fails, ours does, or
/// copes. What differs, otherwise.
fn difference(plain: &str, properties: &str, act: &dyn Fn(&Stranger)) -> Option<String> {
    let ours = run(
        &format!("vtparallelenc encoder=\"{plain}\" {properties}"),
        act,
    );
    match (run(plain, act), ours) {
        (Outcome::Ended(plain), Outcome::Ended(ours)) => {
            let longer = plain.len().max(ours.len());
            let at = (0..longer).find(|&at| plain.get(at) != ours.get(at))?;
            Some(format!("{:?} instead of {:?}", ours.get(at), plain.get(at)))
        }
        (Outcome::Ended(_), Outcome::Failed(error)) => {
            (!error.contains("memory for raw video")).then_some(error)
        }
        (Outcome::Failed(_), _) => None,
    }
}

/// What differs in which case.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn check(&mut self, what: &str, plain: &str, properties: &str, act: &dyn Fn(&Stranger)) {
        let differs = difference(plain, properties, act);
        self.0
            .extend(differs.map(|it| format!("{what}, {plain}, {properties}: {it}")));
    }
}

impl Drop for Differences {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "{:#?}", self.0);
        }
    }
}

const CHUNKS: &str = "sessions=3 chunk-frames=11 min-chunk-frames=4";
const ALONE: &str = "allow-parallel=false";

fn whole() -> gst::FormattedSegment<gst::ClockTime> {
    gst::FormattedSegment::new()
}

#[test]
fn absurd_caps() {
    let size = |width: i64, height: i64| {
        GRAY.replace(
            "width=16,height=16",
            &format!("width={width},height={height}"),
        )
    };
    let rate = |rate: &str| GRAY.replace("25/1", rate);
    let mut all = vec![
        "video/x-raw".to_string(),
        "video/x-raw,format=GRAY8".to_string(),
        "video/x-raw,width=16,height=16".to_string(),
        "video/x-raw,format=GRAY8,width=16".to_string(),
        "video/x-raw,format=NOSUCH,width=16,height=16,framerate=25/1".to_string(),
        "video/x-raw,format=GRAY8,width=(string)wide,height=(double)16.5".to_string(),
        "video/x-raw(memory:NoSuch),format=GRAY8,width=16,height=16,framerate=25/1".to_string(),
        "video/x-raw(memory:NoSuch),width=2147483647,height=2147483647".to_string(),
        "video/x-raw(memory:VtTest),width=2147483647,height=2147483647".to_string(),
        "video/x-raw(memory:VtTest),format=RGBA,width=2147483647,height=2147483647,framerate=2147483647/1".to_string(),
        "audio/x-raw,format=S16LE,rate=8000,channels=1".to_string(),
        "video/x-h264,width=16,height=16".to_string(),
        format!("{GRAY},pixel-aspect-ratio=2147483647/1"),
        format!("{GRAY},pixel-aspect-ratio=0/1"),
        format!("{GRAY},field-order=sideways").replace("progressive", "alternate"),
        GRAY.replace("progressive", "alternate"),
        GRAY.replace("progressive", "nosuch"),
        format!("{GRAY},views=2147483647,multiview-mode=frame-by-frame"),
        format!("{GRAY},colorimetry=nosuch,chroma-site=nosuch"),
    ];
    for (width, height) in [
        (0, 0),
        (0, 16),
        (1, 1),
        (1, 2147483647),
        (2147483647, 1),
        (2147483647, 2147483647),
        (-1, 16),
        (-2147483648, -2147483648),
        (65536, 65536),
        (32768, 65535),
    ] {
        all.push(size(width, height));
    }
    for it in [
        "2147483647/1",
        "1/2147483647",
        "2147483647/2147483647",
        "0/1",
        "0/2147483647",
        "1/1",
        "-25/1",
        "-2147483647/1",
        "1000000000/1",
        "(int)25",
        "(string)fast",
    ] {
        all.push(rate(it));
    }
    let mut differences = Differences::default();
    for caps in &all {
        for properties in [
            CHUNKS,
            ALONE,
            "sessions=2",
            "sessions=2 source-frame-count=18446744073709551615",
        ] {
            differences.check(
                caps,
                "scriptedenc keep-times=true",
                properties,
                &|stranger| {
                    stranger.begin(caps, &whole());
                    stranger.push_gray(0..30);
                },
            );
        }
        // In mid-stream.
        differences.check(caps, "scriptedenc keep-times=true", CHUNKS, &|stranger| {
            stranger.begin(GRAY, &whole());
            stranger.push_gray(0..30);
            stranger.caps(caps);
            stranger.push_gray(30..60);
            stranger.caps(GRAY);
            stranger.push_gray(60..90);
        });
    }
}

/// As near to the end of the range as a time can be.
const LAST: u64 = u64::MAX - 1;
const FRAME: u64 = 40_000_000;

type Times = Vec<(Option<u64>, Option<u64>)>;

/// Times that no camera makes.
fn odd_times() -> Vec<(&'static str, Times)> {
    let all = |of: &dyn Fn(u64) -> (u64, u64)| -> Times {
        let times = (0..60).map(of);
        times
            .map(|(pts, duration)| (Some(pts), Some(duration)))
            .collect()
    };
    vec![
        ("zero", all(&|_| (0, 0))),
        ("one", all(&|n| (n, 1))),
        ("the end", all(&|_| (LAST, LAST))),
        ("up to the end", all(&|n| (LAST - (59 - n) * FRAME, FRAME))),
        (
            "beyond the end",
            all(&|n| {
                (
                    LAST.min((LAST - 30 * FRAME).saturating_add(n * FRAME)),
                    FRAME,
                )
            }),
        ),
        (
            "around the signed end",
            all(&|n| (i64::MAX as u64 - 30 * FRAME + n * FRAME, FRAME)),
        ),
        (
            "there and back",
            all(&|n| {
                (
                    if n % 2 == 0 {
                        n * FRAME
                    } else {
                        LAST - n * FRAME
                    },
                    FRAME,
                )
            }),
        ),
        (
            "once there",
            all(&|n| (if n == 20 { LAST } else { n * FRAME }, FRAME)),
        ),
        (
            "from there",
            all(&|n| (if n < 20 { LAST - n } else { n * FRAME }, FRAME)),
        ),
        ("back from the end", all(&|n| (LAST - n * FRAME, FRAME))),
        ("long frames", all(&|n| (n * FRAME, LAST))),
        (
            "long frames and back",
            all(&|n| (n % 9 * FRAME, i64::MAX as u64)),
        ),
        (
            "one long frame",
            all(&|n| (n * FRAME, if n == 15 { LAST } else { FRAME })),
        ),
        (
            "a long frame and no more times",
            (0..60)
                .map(|n| ((n == 0).then_some(5), Some(LAST)))
                .collect(),
        ),
        (
            "no times after the end",
            (0..60)
                .map(|n| ((n < 20).then(|| LAST - 19 + n), Some(FRAME)))
                .collect(),
        ),
        ("large steps", all(&|n| (n * (LAST / 60), LAST / 60))),
        (
            "large steps back",
            all(&|n| ((59 - n) * (LAST / 60), LAST / 60)),
        ),
    ]
}

fn push_times(stranger: &Stranger, times: &Times, picture: &dyn Fn(u64) -> gst::Buffer) {
    for (number, &(pts, duration)) in times.iter().enumerate() {
        let mut buffer = picture(number as u64);
        let of = buffer.get_mut().unwrap();
        of.set_pts(pts.map(gst::ClockTime::from_nseconds));
        of.set_dts(pts.map(gst::ClockTime::from_nseconds));
        of.set_duration(duration.map(gst::ClockTime::from_nseconds));
        stranger.push(buffer);
    }
}

fn gray_picture(number: u64) -> gst::Buffer {
    gray(number, (gst::ClockTime::ZERO, None))
}

#[test]
fn odd_timestamps() {
    let mut differences = Differences::default();
    for (name, times) in &odd_times() {
        for rate in ["25/1", "0/1", "2147483647/1", "1/2147483647"] {
            for properties in [
                CHUNKS,
                ALONE,
                "sessions=2 chunk-frames=1 min-chunk-frames=1",
            ] {
                let what = format!("{name} at {rate}");
                differences.check(
                    &what,
                    "scriptedenc keep-times=true",
                    properties,
                    &|stranger| {
                        stranger.begin(&GRAY.replace("25/1", rate), &whole());
                        push_times(stranger, times, &gray_picture);
                    },
                );
            }
        }
    }
}

#[test]
fn odd_segments() {
    common::init();
    let segment = |rate: f64, ends: [Option<u64>; 5]| {
        let [start, stop, base, time, offset] =
            ends.map(|it| it.map(gst::ClockTime::from_nseconds));
        let mut segment = whole();
        segment.set_rate(rate);
        segment.set_start(start);
        segment.set_stop(stop);
        segment.set_base(base);
        segment.set_time(time);
        segment.set_offset(offset);
        segment
    };
    let zero = Some(0);
    let some = Some(5 * FRAME);
    let ends = [
        [zero, None, zero, zero, zero],
        [zero, zero, zero, zero, zero],
        [zero, Some(LAST), Some(LAST), Some(LAST), zero],
        [Some(LAST), None, zero, zero, zero],
        [Some(LAST), Some(LAST), Some(LAST), Some(LAST), zero],
        [Some(LAST - 1), Some(LAST), zero, zero, zero],
        [some, Some(20 * FRAME), Some(LAST), zero, zero],
        [some, Some(20 * FRAME), Some(LAST - 10 * FRAME), zero, some],
        [
            zero,
            Some(40 * FRAME),
            Some(i64::MAX as u64),
            zero,
            Some(40 * FRAME),
        ],
        [Some(20 * FRAME), Some(10 * FRAME), zero, zero, zero],
        [zero, Some(60 * FRAME), zero, None, zero],
    ];
    let rates = [
        1.0,
        -1.0,
        1e-300,
        1e300,
        f64::MIN_POSITIVE,
        f64::MAX,
        f64::MIN,
        1e-9,
        -1e-9,
        1e9,
    ];
    let mut differences = Differences::default();
    for rate in rates {
        for ends in ends {
            let is_reversed = ends[0]
                .zip(ends[1])
                .is_some_and(|(start, stop)| start > stop);
            // GStreamer itself refuses these.
            if is_reversed || rate < 0.0 && ends[1].is_none() {
                continue;
            }
            let segment = segment(rate, ends);
            let what = format!("{segment:?}");
            let act = |stranger: &Stranger| {
                stranger.begin(GRAY, &segment);
                stranger.push_gray(0..30);
                // Another in mid-stream.
                stranger.send(gst::event::Segment::new(&segment));
                stranger.push_gray((30..60).rev());
                stranger.send(gst::event::Segment::new(&whole()));
                stranger.push_gray(60..70);
            };
            for chunks in [CHUNKS, ALONE] {
                differences.check(&what, "scriptedenc keep-times=true", chunks, &act);
            }
            // By 1000 hours the plain encoder moves these beyond the end, to the beginning; and what it makes of the times of frames
            // that it reorders is its own.
            for plain in ["scriptedenc", "scriptedenc bframes=2"] {
                let outcome = run(&format!("vtparallelenc encoder=\"{plain}\" {CHUNKS}"), &act);
                assert!(matches!(outcome, Outcome::Ended(_)), "{what}: {outcome:?}");
            }
        }
    }
}

const I420: &str = "video/x-raw,format=I420,width=64,height=64,framerate=25/1";

fn picture(number: u64) -> gst::Buffer {
    gst::Buffer::from_slice(vec![number as u8; 64 * 64 * 3 / 2])
}

#[test]
fn odd_timestamps_with_real_encoders() {
    for (name, times) in &odd_times() {
        // (vp8enc alone gives up with half of them.)
        for encoder in [
            "x264enc threads=1 speed-preset=ultrafast",
            "x264enc threads=1 bframes=2",
            "jpegenc",
            "vp8enc",
            "theoraenc",
        ] {
            let ours = format!("vtparallelenc encoder=\"{encoder}\" {CHUNKS}");
            let outcome = run(&ours, &|stranger| {
                stranger.begin(I420, &whole());
                push_times(stranger, times, &picture);
            });
            let Outcome::Ended(story) = outcome else {
                panic!("{name}, {encoder}: {outcome:?}");
            };
            let packets = story
                .iter()
                .filter(|it| it.starts_with("packet at Some"))
                .count();
            assert_eq!(
                packets,
                times.iter().filter(|(pts, _)| pts.is_some()).count(),
                "{name}, {encoder}: {story:#?}"
            );
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Custom,
    Tag,
    KeyNow,
    KeyLater,
    KeyAll,
    KeyFromBelow,
    Segment,
    Gap,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    BeforeCaps,
    BeforeFrames,
    Between,
    BeforeEnd,
}

fn flood(stranger: &Stranger, kind: Kind, count: u64) {
    let time = |ms: u64| gst::ClockTime::from_mseconds(ms);
    let below = stranger.rig.enc.static_pad("src").unwrap();
    for number in 0..count {
        let event = match kind {
            Kind::Custom => gst::event::CustomDownstream::new(
                gst::Structure::builder("flood")
                    .field("number", number)
                    .build(),
            ),
            Kind::Tag => {
                let mut tags = gst::TagList::new();
                tags.make_mut()
                    .add::<gst::tags::TrackNumber>(&(number as u32), gst::TagMergeMode::Append);
                gst::event::Tag::new(tags)
            }
            Kind::KeyNow | Kind::KeyAll => gst_video::DownstreamForceKeyUnitEvent::builder()
                .all_headers(kind == Kind::KeyAll)
                .count(number as u32)
                .build(),
            Kind::KeyLater => gst_video::DownstreamForceKeyUnitEvent::builder()
                .running_time(time(1_000_000 + number))
                .build(),
            Kind::KeyFromBelow => gst_video::UpstreamForceKeyUnitEvent::builder()
                .count(number as u32)
                .build(),
            Kind::Segment => gst::event::Segment::new(&whole()),
            Kind::Gap => gst::event::Gap::new(time(number), time(1)),
        };
        match kind {
            Kind::KeyFromBelow => {
                below.send_event(event);
            }
            _ => stranger.send(event),
        }
    }
}

fn flooded(stranger: &Stranger, kind: Kind, place: Place, count: u64) {
    let here = |at: Place| {
        if at == place {
            flood(stranger, kind, count);
        }
    };
    stranger.send(gst::event::StreamStart::new("stranger"));
    here(Place::BeforeCaps);
    stranger.caps(GRAY);
    stranger.send(gst::event::Segment::new(&whole()));
    here(Place::BeforeFrames);
    stranger.push_gray(0..36);
    here(Place::Between);
    stranger.push_gray(36..60);
    here(Place::BeforeEnd);
}

/// Many events that nobody needs.
fn assert_flood(kind: Kind, places: &[(Place, u64)]) {
    let mut differences = Differences::default();
    for &(place, count) in places {
        // (GstVideoEncoder loses requests for key frames where timestamps are moved.)
        let plain = "scriptedenc keep-times=true";
        for properties in [CHUNKS, ALONE] {
            let what = format!("{count} {kind:?} {place:?}");
            if (kind, place) == (Kind::Tag, Place::BeforeCaps) {
                // Before the segment, too: they leave after it, where sticky events have their order.
                let ours = format!("vtparallelenc encoder=\"{plain}\" {properties}");
                let outcome = run(&ours, &|stranger| flooded(stranger, kind, place, count));
                assert!(matches!(outcome, Outcome::Ended(_)), "{what}: {outcome:?}");
                continue;
            }
            differences.check(&what, plain, properties, &|stranger| {
                flooded(stranger, kind, place, count);
            });
        }
    }
}

#[test]
fn a_few_events_of_each_kind_everywhere() {
    use Kind::*;
    use Place::*;
    for kind in [
        Custom,
        Tag,
        KeyNow,
        KeyAll,
        KeyLater,
        KeyFromBelow,
        Segment,
        Gap,
    ] {
        for count in [1, 2, 3, 50, 1_000] {
            let places = [BeforeCaps, BeforeFrames, Between, BeforeEnd].into_iter();
            // (GStreamer itself warns of a segment before caps.)
            let places = places.filter(|at| kind != Segment || *at != BeforeCaps);
            let places: Vec<_> = places.map(|place| (place, count)).collect();
            assert_flood(kind, &places);
        }
    }
}

/// Lets a million events of a kind in; all frames leave, and so many events of that type. (What grows with their square never ends.)
fn assert_million(kind: Kind, place: Place, of: gst::EventType, leaves: bool) {
    assert_many(MILLION, kind, place, of, leaves);
}

const MILLION: u64 = 1_000_000;

fn assert_many(count: u64, kind: Kind, place: Place, of: gst::EventType, leaves: bool) {
    // (GstVideoEncoder loses requests for key frames where timestamps are moved.)
    let encoder = format!("vtparallelenc encoder=\"scriptedenc keep-times=true\" {CHUNKS}");
    let stranger = Stranger::new(&encoder);
    flooded(&stranger, kind, place, count);
    stranger.rig.end();
    let entries = stranger.rig.take();
    let events = entries.iter().filter_map(|entry| entry.event());
    let left = events.filter(|event| event.type_() == of).count() as u64;
    assert_eq!(left, if leaves { count } else { 0 }, "{kind:?}");
    let frames = entries.iter().filter(|entry| entry.buffer().is_some());
    assert_eq!(frames.count(), 60, "{kind:?}");
}

#[test]
fn a_million_events() {
    let of = gst::EventType::CustomDownstream;
    for place in [Place::BeforeCaps, Place::BeforeFrames, Place::Between] {
        assert_million(Kind::Custom, place, of, true);
    }
    assert_million(Kind::Gap, Place::BeforeEnd, gst::EventType::Gap, true);
}

#[test]
fn a_million_tags() {
    assert_million(Kind::Tag, Place::BeforeFrames, gst::EventType::Tag, true);
}

#[test]
fn a_million_key_frames_are_asked_for() {
    let of = gst::EventType::CustomDownstream;
    assert_million(Kind::KeyAll, Place::Between, of, true);
    assert_million(Kind::KeyFromBelow, Place::BeforeCaps, of, true);
}

#[test]
fn a_million_key_frames_for_another_day() {
    // (The plain encoder's time grows with their square.)
    let of = gst::EventType::CustomDownstream;
    assert_million(Kind::KeyLater, Place::Between, of, false);
}

/// Pictures that aren't as large as the caps say, for encoders that look into them.
fn odd_buffers() -> Vec<(&'static str, gst::Buffer)> {
    const WHOLE: usize = 64 * 64 * 3 / 2;
    let of_size = |size: usize| gst::Buffer::from_slice(vec![7; size]);
    let in_parts = |parts: usize| {
        let mut buffer = gst::Buffer::new();
        for part in 0..parts {
            let size = WHOLE * (part + 1) / parts - WHOLE * part / parts;
            let memory = gst::Memory::from_slice(vec![7u8; size]);
            buffer.get_mut().unwrap().append_memory(memory);
        }
        buffer
    };
    vec![
        ("no memory", gst::Buffer::new()),
        ("empty", of_size(0)),
        ("a byte", of_size(1)),
        ("a byte less", of_size(WHOLE - 1)),
        ("a byte more", of_size(WHOLE + 1)),
        ("a thousand times", of_size(WHOLE * 1_000)),
        ("a thousand parts", in_parts(1_000)),
        ("parts of nothing", in_parts(WHOLE * 2)),
    ]
}

#[test]
fn odd_buffers_are_what_they_are_to_the_plain_encoder() {
    common::init();
    for (name, odd) in odd_buffers() {
        for encoder in ["x264enc threads=1 speed-preset=ultrafast", "jpegenc"] {
            for at in [0, 17, 35] {
                let act = |stranger: &Stranger| {
                    stranger.begin(I420, &whole());
                    for number in 0..36 {
                        let mut buffer = if number == at {
                            odd.copy()
                        } else {
                            picture(number)
                        };
                        let times = buffer.get_mut().unwrap();
                        times.set_pts(gst::ClockTime::from_nseconds(number * FRAME));
                        times.set_duration(gst::ClockTime::from_nseconds(FRAME));
                        stranger.push(buffer);
                    }
                };
                for properties in [
                    CHUNKS,
                    ALONE,
                    "sessions=2 chunk-frames=11 max-raw-bytes=100000",
                ] {
                    let ours = run(
                        &format!("vtparallelenc encoder=\"{encoder}\" {properties}"),
                        &act,
                    );
                    match (run(encoder, &act), ours) {
                        (Outcome::Ended(plain), Outcome::Ended(ours)) => {
                            let packets = |story: &[String]| -> Vec<String> {
                                story
                                    .iter()
                                    .filter(|it| it.starts_with("packet"))
                                    .cloned()
                                    .collect()
                            };
                            assert_eq!(
                                packets(&plain),
                                packets(&ours),
                                "{name} {encoder} {at} {properties}"
                            );
                        }
                        (Outcome::Ended(plain), Outcome::Failed(error)) => {
                            panic!(
                                "{name} {encoder} {at} {properties}: {error}, the plain one {plain:?}"
                            );
                        }
                        (Outcome::Failed(_), _) => (),
                    }
                }
            }
        }
    }
}

#[test]
fn properties_at_the_ends_of_their_ranges() {
    for properties in [
        "sessions=64",
        "sessions=64 chunk-frames=1 min-chunk-frames=1",
        "sessions=64 chunk-frames=4294967295 min-chunk-frames=4294967295 overlap-before=1000 overlap-after=1000 \
         source-frame-count=18446744073709551615 max-raw-bytes=18446744073709551615",
        "sessions=1 chunk-frames=4294967295 max-raw-bytes=18446744073709551615",
        "sessions=2 min-chunk-frames=4294967295 max-raw-bytes=18446744073709551615",
        "sessions=2 min-chunk-frames=4294967295",
        "sessions=2 source-frame-count=18446744073709551615 max-raw-bytes=18446744073709551615",
        "sessions=3 source-frame-count=1 chunk-frames=10",
        "sessions=3 chunk-frames=10 overlap-before=1000 overlap-after=1000",
        "sessions=3 chunk-frames=10 max-raw-bytes=1",
        "sessions=3 max-raw-bytes=1",
    ] {
        let mut differences = Differences::default();
        for caps in [
            GRAY.to_string(),
            GRAY.replace("25/1", "2147483647/1"),
            GRAY.replace("25/1", "1/2147483647"),
        ] {
            differences.check(
                &caps,
                "scriptedenc keep-times=true",
                properties,
                &|stranger| {
                    stranger.begin(&caps, &whole());
                    let below = stranger.rig.enc.static_pad("src").unwrap();
                    for number in 0..60 {
                        stranger.push_gray([number]);
                        let mut latency = gst::query::Latency::new();
                        below.query(&mut latency);
                        let caps = stranger.rig.src.current_caps();
                        let mut allocation = gst::query::Allocation::new(caps.as_ref(), true);
                        stranger.rig.src.peer_query(&mut allocation);
                    }
                    if stranger.rig.enc.has_property("stats") {
                        stranger.rig.stats();
                    }
                },
            );
        }
    }
}
