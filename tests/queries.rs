// SPDX-License-Identifier: MPL-2.0

//! Queries and events that aren't part of the stream: each reaches the right peer, once, and none comes from inside.

mod common;

use common::rig::{Entry, Rig};
use gst::prelude::*;
use std::time::Duration;

const PLAIN: &str = "scriptedenc";
const OURS: &str =
    "vtparallelenc encoder=scriptedenc sessions=3 chunk-frames=12 min-chunk-frames=4";
const ALONE: &str = "vtparallelenc encoder=scriptedenc allow-parallel=false";

fn types(events: &[gst::Event]) -> Vec<gst::EventType> {
    events.iter().map(|event| event.type_()).collect()
}

#[test]
fn events_from_downstream_reach_upstream_once() {
    for encoder in [PLAIN, OURS, ALONE] {
        let rig = Rig::new(encoder);
        rig.push_all(0..30);
        rig.upstream.lock().unwrap().events.clear();
        let custom = |name: &str| gst::Structure::new_empty(name);
        let sent = [
            gst::event::Reconfigure::new(),
            gst::event::Qos::new(
                gst::QOSType::Underflow,
                2.0,
                40_000_000i64,
                gst::ClockTime::from_seconds(1),
            ),
            gst::event::Latency::new(gst::ClockTime::from_mseconds(123)),
            gst::event::Navigation::new(custom("application/x-gst-navigation")),
            gst::event::Seek::new(
                1.0,
                gst::SeekFlags::FLUSH,
                gst::SeekType::Set,
                gst::ClockTime::ZERO,
                gst::SeekType::None,
                gst::ClockTime::NONE,
            ),
            gst::event::Step::new(gst::format::Buffers::from_u64(1), 1.0, true, false),
            gst::event::CustomUpstream::new(custom("mine")),
        ];
        for event in &sent {
            assert!(rig.sink.push_event(event.clone()), "{encoder}: {event:?}");
        }
        rig.push_all(30..60);
        rig.end();
        let heard = types(&rig.upstream.lock().unwrap().events);
        assert_eq!(heard, types(&sent), "{encoder}");
    }
}

#[test]
fn events_that_overtake_frames_do_so_once() {
    for encoder in [PLAIN, OURS, ALONE] {
        let rig = Rig::new(encoder);
        rig.push_all(0..30);
        let custom = || gst::Structure::new_empty("mine");
        let sent = [
            gst::event::CustomDownstreamOob::new(custom()),
            gst::event::CustomBothOob::new(custom()),
            gst::event::InstantRateChange::new(1.0, gst::SegmentFlags::empty()),
        ];
        let before = rig.entries().len();
        for event in &sent {
            rig.send(event.clone());
        }
        // They are there when they were sent, whatever else leaves meanwhile.
        let entries = rig.entries();
        let after = entries[before..].iter().filter_map(Entry::event);
        let after = after.map(|event| event.type_());
        let after: Vec<_> = after.filter(|it| types(&sent).contains(it)).collect();
        assert_eq!(after, types(&sent), "{encoder}");
        rig.end();
        let entries = rig.entries();
        let all: Vec<_> = entries
            .iter()
            .filter_map(Entry::event)
            .map(|it| it.type_())
            .collect();
        // (GStreamer itself sends a sticky one again.)
        for kind in types(&sent[..2]) {
            assert_eq!(all.iter().filter(|it| **it == kind).count(), 1, "{encoder}");
        }
    }
}

/// A progress bar shows what is done, not what was taken in.
#[test]
fn the_position_is_that_of_the_last_packet_that_left() {
    for (script, rate) in [("", 1.0), ("bframes=2", 1.0), ("bframes=2", 2.0)] {
        let rig = Rig::bare(&OURS.replace("scriptedenc", &format!("\"scriptedenc {script}\"")));
        rig.send(gst::event::StreamStart::new("one"));
        rig.send(gst::event::Caps::new(&common::GRAY.parse().unwrap()));
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_rate(rate);
        let time = gst::ClockTime::from_seconds(100);
        segment.set_time(time);
        rig.send(gst::event::Segment::new(&segment));
        let ends = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = ends.clone();
        let (enc, mut most) = (rig.enc.downgrade(), None);
        rig.on_packet(move |_, packet| {
            let start = packet.pts().unwrap();
            // With B-frames the plain encoder shifts its times.
            let shift = gst::ClockTime::from_seconds(1000 * 3600);
            let start = start.checked_sub(shift).unwrap_or(start);
            let end = start + packet.duration().unwrap();
            most = most.max(Some(end));
            let src = enc.upgrade().unwrap().static_pad("src").unwrap();
            let position = src.query_position::<gst::ClockTime>();
            kept.lock().unwrap().push((most, position));
        });
        rig.push_all(0..50);
        rig.end();
        let ends = ends.lock().unwrap();
        assert_eq!(ends.len(), 50);
        for &(end, position) in ends.iter() {
            assert_eq!(position, end.map(|end| time + end), "{script} {rate}");
        }
    }
}

#[test]
fn upstream_answers_for_the_stream_once() {
    for encoder in [PLAIN, OURS, ALONE] {
        let rig = Rig::new(encoder);
        rig.push_all(0..30);
        rig.upstream.lock().unwrap().duration = Some(gst::ClockTime::from_seconds(9));
        let asked = |query: &mut gst::QueryRef| {
            rig.upstream.lock().unwrap().queries.clear();
            let answered = rig.sink.peer_query(query);
            (answered, rig.upstream.lock().unwrap().queries.clone())
        };
        let mut position = gst::query::Position::new(gst::Format::Time);
        let (answered, of_upstream) = asked(&mut position);
        assert!(answered, "{encoder}");
        // (Once something has left, ours knows better.)
        if encoder != OURS {
            assert_eq!(of_upstream, [gst::QueryType::Position], "{encoder}");
            assert_eq!(position.result(), gst::ClockTime::from_seconds(7).into());
        }
        let mut duration = gst::query::Duration::new(gst::Format::Time);
        assert_eq!(
            asked(&mut duration),
            (true, vec![gst::QueryType::Duration]),
            "{encoder}"
        );
        let mut seeking = gst::query::Seeking::new(gst::Format::Time);
        assert_eq!(
            asked(&mut seeking),
            (true, vec![gst::QueryType::Seeking]),
            "{encoder}"
        );
        assert!(seeking.result().0);
        let mut context = gst::query::Context::new("vt.test.Context");
        assert_eq!(
            asked(&mut context),
            (false, vec![gst::QueryType::Context]),
            "{encoder}"
        );
        let mut custom = gst::query::Custom::new(gst::Structure::new_empty("vt.test.Custom"));
        assert_eq!(
            asked(&mut custom),
            (false, vec![gst::QueryType::Custom]),
            "{encoder}"
        );
        // Nobody pulls.
        let mut scheduling = gst::query::Scheduling::new();
        assert_eq!(asked(&mut scheduling), (false, vec![]), "{encoder}");
        rig.end();
    }
}

#[test]
fn conversions_are_those_of_the_plain_encoder() {
    use gst::format::{Bytes, Default};
    let of = |encoder: &str| {
        let rig = Rig::new(encoder);
        let convert = |pad: &gst::Pad, mut query: gst::query::Convert<gst::Query>| {
            pad.peer_query(&mut query).then(|| query.result().1)
        };
        let before = convert(
            &rig.sink,
            gst::query::Convert::new(Bytes::from_u64(1000), gst::Format::Time),
        );
        rig.push_all(0..48);
        rig.end();
        let raw = |query| convert(&rig.src, query);
        let encoded = |query| convert(&rig.sink, query);
        let bytes: usize = rig
            .entries()
            .iter()
            .filter_map(|entry| entry.buffer().map(|it| it.size()))
            .sum();
        let converted = encoded(gst::query::Convert::new(
            Bytes::from_usize(bytes),
            gst::Format::Time,
        ));
        let back = encoded(gst::query::Convert::new(
            gst::ClockTime::from_mseconds(48 * 40),
            gst::Format::Bytes,
        ));
        assert_eq!(back, Some(Bytes::from_usize(bytes).into()), "{encoder}");
        (
            before,
            converted,
            encoded(gst::query::Convert::new(
                Default::from_u64(3),
                gst::Format::Time,
            )),
            encoded(gst::query::Convert::new(
                Default::from_u64(3),
                gst::Format::Default,
            )),
            raw(gst::query::Convert::new(
                Bytes::from_u64(256 * 50),
                gst::Format::Time,
            )),
            raw(gst::query::Convert::new(
                Default::from_u64(75),
                gst::Format::Time,
            )),
            raw(gst::query::Convert::new(
                gst::ClockTime::SECOND,
                gst::Format::Bytes,
            )),
            raw(gst::query::Convert::new(
                gst::ClockTime::SECOND,
                gst::Format::Percent,
            )),
        )
    };
    let plain = of(PLAIN);
    assert_eq!(plain.1, Some(gst::ClockTime::from_mseconds(48 * 40).into()));
    assert_eq!(plain, of(OURS));
}

#[test]
fn no_session_asks_or_tells_anybody_outside() {
    let rig = Rig::bare(OURS);
    // (A bin without a parent distributes the latency itself, and pads that are linked ask for each other's caps.)
    rig.upstream.lock().unwrap().events.clear();
    rig.upstream.lock().unwrap().queries.clear();
    rig.downstream.lock().unwrap().queries.clear();
    rig.begin(common::GRAY);
    rig.push_all(0..50);
    rig.end();
    let upstream = rig.upstream.lock().unwrap();
    assert!(upstream.events.is_empty(), "{:?}", upstream.events);
    // How long it is and how much of it will come, for the plan, and whether it is live.
    let known = [
        gst::QueryType::Duration,
        gst::QueryType::Segment,
        gst::QueryType::Latency,
    ];
    assert!(
        upstream.queries.iter().all(|query| known.contains(query)),
        "{:?}",
        upstream.queries
    );
    let latency = upstream
        .queries
        .iter()
        .filter(|it| **it == gst::QueryType::Latency);
    assert_eq!(latency.count(), 1);
    // Ours, and those of the pads on the way; not one for each of the chunks.
    let downstream = rig.downstream.lock().unwrap();
    let caps = downstream
        .queries
        .iter()
        .filter(|it| **it == gst::QueryType::Caps);
    assert!(caps.count() < 4, "{:?}", downstream.queries);
    let known = [gst::QueryType::Caps, gst::QueryType::AcceptCaps];
    assert!(
        downstream.queries.iter().all(|it| known.contains(it)),
        "{:?}",
        downstream.queries
    );
    drop((upstream, downstream));
    let messages = rig.messages(&[
        gst::MessageType::Latency,
        gst::MessageType::Qos,
        gst::MessageType::Warning,
        gst::MessageType::Error,
    ]);
    // Its own latency, once.
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(
        messages[0].src().unwrap(),
        rig.enc.upcast_ref::<gst::Object>()
    );
}

#[test]
fn drain_waits_until_no_frame_is_held() {
    let rig = Rig::new(OURS);
    for (from, to) in [(0, 5), (5, 30), (30, 31), (31, 31)] {
        rig.push_all(from..to);
        let mut drain = gst::query::Drain::new();
        assert!(rig.src.peer_query(&mut drain));
        assert_eq!(rig.stats().get::<u64>("bytes-held").unwrap(), 0);
    }
    rig.end();
    let frames: Vec<_> = rig.frames();
    assert_eq!(frames, (0..31).collect::<Vec<_>>());
    // Nothing at all was ever held.
    let idle = Rig::new(OURS);
    assert!(idle.src.peer_query(&mut gst::query::Drain::new()));
}

#[test]
fn drain_gives_up_at_a_flush_and_at_a_stop() {
    for flushes in [true, false] {
        let name = format!("drain {flushes}");
        let gate = common::scripted::Gate::named(&name);
        let rig = Rig::new(&format!(
            "vtparallelenc encoder=\"scriptedenc gate=\\\"{name}\\\"\" sessions=2 chunk-frames=10"
        ));
        rig.push_all(0..15);
        gate.wait_for(1);
        std::thread::scope(|scope| {
            let src = rig.src.clone();
            let drain = scope.spawn(move || src.peer_query(&mut gst::query::Drain::new()));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!drain.is_finished());
            if flushes {
                assert!(rig.src.push_event(gst::event::FlushStart::new()));
                assert!(!drain.join().unwrap());
                gate.open();
                assert!(rig.src.push_event(gst::event::FlushStop::new(true)));
            } else {
                gate.open();
                rig.enc.set_state(gst::State::Ready).unwrap();
                // It may have been quicker.
                let _ = drain.join().unwrap();
            }
        });
    }
}
