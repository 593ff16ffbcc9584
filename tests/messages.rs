// SPDX-License-Identifier: MPL-2.0

//! What programs are told: element messages and their fields, as docs/messages.md has them.

mod common;

use common::{Pipeline, app_src, constant, feed, gray, init, scripted_pipeline, tool, up_to};
use gst::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The element messages of a pipeline from now on.
fn told(pipeline: &Pipeline) -> Arc<Mutex<Vec<gst::Structure>>> {
    pipeline.said(|message| match message.view() {
        gst::MessageView::Element(element) => {
            let of = message.src()?.name();
            let structure = element.structure()?.to_owned();
            structure
                .name()
                .starts_with("vtparallelenc-")
                .then(|| assert_eq!(of, "enc"))?;
            Some(structure)
        }
        _ => None,
    })
}

fn run(properties: &str, frames: u64) -> Vec<gst::Structure> {
    let pipeline = scripted_pipeline(&format!("vtparallelenc name=enc {properties}"));
    let told = told(&pipeline);
    feed(&pipeline, &constant(frames));
    let _ = pipeline.run();
    pipeline.set_state(gst::State::Null).unwrap();
    told.lock().unwrap().clone()
}

fn named<'a>(told: &'a [gst::Structure], name: &str) -> Vec<&'a gst::Structure> {
    let of = told.iter().filter(|it| it.name() == name);
    of.collect()
}

#[test]
fn a_plan_its_chunks_and_sessions_are_told_in_order() {
    let told = run(
        "encoder=scriptedenc sessions=2 chunk-frames=20 overlap-before=3 overlap-after=2",
        60,
    );
    let plans = named(&told, "vtparallelenc-plan");
    assert_eq!(plans.len(), 1, "{told:?}");
    assert_eq!(told[0].name(), "vtparallelenc-plan");
    let plan = plans[0];
    assert_eq!(plan.get("sessions-planned"), Ok(2_u64), "{plan}");
    assert_eq!(plan.get("chunk-frames"), Ok(20_u64), "{plan}");
    assert_eq!(plan.get("overlap-before"), Ok(3_u64), "{plan}");
    assert_eq!(plan.get("overlap-after"), Ok(2_u64), "{plan}");
    assert_eq!(plan.get("limited-by"), Ok("chunk-frames"), "{plan}");
    assert_eq!(plan.get("cut"), Ok("fixed"), "{plan}");

    let mut states: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for chunk in named(&told, "vtparallelenc-chunk") {
        let id: u64 = chunk.get("chunk").unwrap();
        assert!(chunk.get::<u64>("session").unwrap() < 2, "{chunk}");
        assert_eq!(chunk.get("attempt"), Ok(1_u32), "{chunk}");
        assert_eq!(chunk.get("first-frame"), Ok(20 * id), "{chunk}");
        let state: String = chunk.get("state").unwrap();
        if state == "finished" {
            let around = if id == 0 { 2 } else { 3 + 2 };
            let around = if id == 2 { 3 } else { around };
            assert_eq!(chunk.get("frames"), Ok(20_u64), "{chunk}");
            let fed: u64 = chunk.get("frames-encoded").unwrap();
            // The trail may end early.
            assert!((20..=20 + around).contains(&fed), "{chunk}");
            assert_eq!(chunk.get("from-cache"), Ok(false), "{chunk}");
            assert!(chunk.get::<u64>("busy").unwrap() > 0, "{chunk}");
        }
        states.entry(id).or_default().push(state);
    }
    assert_eq!(states.len(), 3, "{told:?}");
    for states in states.values() {
        assert_eq!(states, &["started", "finished"]);
    }
    let sessions = named(&told, "vtparallelenc-session");
    assert!((1..=2).contains(&sessions.len()), "{told:?}");
    for session in sessions {
        assert_eq!(session.get("state"), Ok("opened"), "{session}");
    }
    // The last one of progress is before the end, whatever the interval.
    let last = told.last().unwrap();
    assert_eq!(last.name(), "vtparallelenc-progress");
    assert_eq!(last.get("frames-done"), Ok(60_u64), "{last}");
    assert_eq!(last.get("frames-out"), Ok(60_u64), "{last}");
    assert_eq!(last.get("parallel"), Ok(true), "{last}");
}

#[test]
fn why_one_encoder_has_it_all_is_told() {
    for (properties, reason, part) in [
        ("allow-parallel=false", "allow-parallel", "is false"),
        ("sessions=1", "one-session", "no chunk length"),
    ] {
        let told = run(&format!("encoder=scriptedenc {properties}"), 10);
        assert_eq!(told[0].name(), "vtparallelenc-sequential", "{told:?}");
        assert_eq!(told[0].get("reason"), Ok(reason));
        let text: String = told[0].get("text").unwrap();
        assert!(text.contains(part), "{text}");
        let last = told.last().unwrap();
        assert_eq!(last.name(), "vtparallelenc-progress", "{told:?}");
        assert_eq!(last.get("parallel"), Ok(false), "{last}");
        assert_eq!(last.get("frames-done"), Ok(10_u64), "{last}");
        assert!(named(&told, "vtparallelenc-plan").is_empty());
        assert!(named(&told, "vtparallelenc-chunk").is_empty());
    }
}

#[test]
fn another_attempt_is_told_with_its_reason() {
    let told = run(
        "encoder=\"scriptedenc fail-at=5 fail-times=1 failure=messages\" sessions=1 chunk-frames=20",
        40,
    );
    let first: Vec<_> = named(&told, "vtparallelenc-chunk")
        .into_iter()
        .filter(|it| it.get("chunk") == Ok(0_u64))
        .map(|it| {
            (
                it.get::<String>("state").unwrap(),
                it.get::<u32>("attempt").unwrap(),
            )
        })
        .collect();
    let story: Vec<_> = first
        .iter()
        .map(|(state, number)| (&**state, *number))
        .collect();
    assert_eq!(
        story,
        [
            ("started", 1),
            ("failed", 1),
            ("started", 2),
            ("finished", 2)
        ],
        "{told:?}"
    );
    let failed = |told: &[gst::Structure]| {
        let chunks = named(told, "vtparallelenc-chunk").into_iter();
        let failed = chunks.filter(|it| it.get("state") == Ok("failed"));
        let texts: Vec<String> = failed.map(|it| it.get("text").unwrap()).collect();
        assert!(texts.iter().all(|it| !it.is_empty()), "{texts:?}");
        texts.len()
    };
    assert_eq!(failed(&told), 1);
    // The last one is told, too.
    let told = run(
        "encoder=\"scriptedenc fail-at=5 failure=messages-always\" sessions=1 chunk-frames=20 max-attempts=2",
        40,
    );
    assert_eq!(failed(&told), 2, "{told:?}");
}

/// What is told of progress goes up to the whole, and is what the statistics say.
#[test]
fn progress_goes_up_to_the_whole() {
    let pipeline = scripted_pipeline(
        "vtparallelenc name=enc encoder=scriptedenc sessions=2 chunk-frames=20 source-frame-count=100 progress-interval=1000000",
    );
    let told = told(&pipeline);
    pipeline.set_state(gst::State::Playing).unwrap();
    let times = constant(100);
    for (number, time) in times.iter().enumerate() {
        app_src(&pipeline)
            .push_buffer(gray(number as u64, *time))
            .unwrap();
        if number % 10 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    app_src(&pipeline).end_of_stream().unwrap();
    pipeline.end().expect_eos();
    let stats = pipeline.stats();
    pipeline.set_state(gst::State::Null).unwrap();
    let told = told.lock().unwrap();
    let progress = named(&told, "vtparallelenc-progress");
    assert!(progress.len() > 2, "{told:?}");
    let mut before = 0;
    for it in &progress {
        let done: u64 = it.get("frames-done").unwrap();
        assert!(done >= before, "{it}");
        before = done;
        assert_eq!(it.get("frames-total"), Ok(100_u64), "{it}");
        let fraction: f64 = it.get("fraction").unwrap();
        assert!((fraction - done as f64 / 100.0).abs() < 1e-9, "{it}");
        let sessions: gst::Array = it.get("sessions").unwrap();
        for session in sessions.iter() {
            let session: gst::Structure = session.get().unwrap();
            let busy: f64 = session.get("busy-share").unwrap();
            assert!((0.0..=1.0).contains(&busy), "{it}");
        }
        assert!(it.get::<f64>("speed-up").unwrap() <= 2.0, "{it}");
    }
    let last = progress.last().unwrap();
    assert_eq!(last.get("fraction"), Ok(1.0), "{last}");
    assert_eq!(last.get("time-left"), Ok(0_u64), "{last}");
    for field in [
        "frames-in",
        "frames-out",
        "frames-done",
        "frames-total",
        "bytes-held",
    ] {
        assert_eq!(last.get::<u64>(field), stats.get(field), "{field}");
    }
}

#[test]
fn without_an_interval_there_is_no_progress_and_no_thread() {
    let pipeline = scripted_pipeline(
        "vtparallelenc name=enc encoder=scriptedenc sessions=2 chunk-frames=20 progress-interval=0",
    );
    let told = told(&pipeline);
    feed(&pipeline, &constant(60));
    pipeline.run().expect_eos();
    assert!(named(&told.lock().unwrap(), "vtparallelenc-progress").is_empty());
}

/// What was done before a seek is none of what comes after it.
#[test]
fn progress_begins_anew_after_a_flush() {
    init();
    let part = |frames: u64| up_to(gst::ClockTime::from_mseconds(40 * frames));
    for properties in ["sessions=2 chunk-frames=20", "allow-parallel=false"] {
        let pipeline = Pipeline::parse(&format!(
            "videotestsrc name=source ! video/x-raw,width=64,height=64,framerate=25/1 ! \
             vtparallelenc name=enc encoder=jpegenc {properties} ! fakesink",
        ));
        let told = told(&pipeline);
        assert!(pipeline.element("source").send_event(part(2_000)));
        pipeline.run().expect_eos();
        assert!(pipeline.send_event(part(40)));
        pipeline.end().expect_eos();
        // Time stands still after the end.
        let elapsed = || pipeline.stats().get::<u64>("elapsed").unwrap();
        assert_eq!(elapsed(), elapsed());
        pipeline.set_state(gst::State::Null).unwrap();
        let told = told.lock().unwrap();
        let all = named(&told, "vtparallelenc-progress");
        let last = all.last().unwrap();
        assert_eq!(last.get("frames-done"), Ok(40_u64), "{last}");
        assert_eq!(last.get("frames-total"), Ok(40_u64), "{last}");
        assert_eq!(last.get("frames-out"), Ok(2_040_u64), "{last}");
        assert_eq!(last.get("fraction"), Ok(1.0), "{last}");
        // What sessions did before isn't what they do.
        let busy: f64 = last.get("speed-up").unwrap();
        assert!(busy <= 2.0, "{last}");
    }
}

/// An application that stops the element where it hears of progress, in the thread that tells of it.
#[test]
fn who_stops_it_where_it_hears_of_progress_is_not_waited_for() {
    init();
    let pipeline = Pipeline::parse(
        "videotestsrc ! video/x-raw,width=64,height=64,framerate=25/1 ! \
         vtparallelenc name=enc encoder=jpegenc sessions=2 chunk-frames=5 progress-interval=1000000 ! fakesink",
    );
    let (sender, stopped) = std::sync::mpsc::channel();
    let enc = pipeline.element("enc").downgrade();
    pipeline.bus().unwrap().set_sync_handler(move |_, message| {
        let is_progress = message
            .structure()
            .is_some_and(|it| it.name() == "vtparallelenc-progress");
        if is_progress && let Some(enc) = enc.upgrade() {
            // (The pipeline's own state is another matter.)
            enc.set_locked_state(true);
            let _ = enc.set_state(gst::State::Null);
            let _ = sender.send(());
        }
        gst::BusSyncReply::Drop
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    stopped
        .recv_timeout(std::time::Duration::from_secs(60))
        .unwrap();
    pipeline.element("enc").set_locked_state(false);
    pipeline.set_state(gst::State::Null).unwrap();
}

/// The fields of the documentation, and no others.
#[test]
fn the_documentation_has_all_fields() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/messages.md")).unwrap();
    let told = run(
        "encoder=scriptedenc sessions=2 chunk-frames=20 source-frame-count=60",
        60,
    );
    for structure in &told {
        assert!(text.contains(structure.name().as_str()), "{structure}");
        for field in structure.fields() {
            assert!(text.contains(&format!("`{field}`")), "{field}");
        }
    }
}

#[test]
fn gst_launch_shows_them() {
    let dir = tempfile::tempdir().unwrap();
    let output = tool(dir.path(), "gst-launch-1.0")
        .args(["-m", "videotestsrc", "num-buffers=50", "!"])
        .args(["vtparallelenc", "encoder=jpegenc", "sessions=2", "!"])
        .arg("fakesink")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    for name in ["plan", "session", "chunk", "progress"] {
        assert!(said.contains(&format!("vtparallelenc-{name}")), "{said}");
    }
}
