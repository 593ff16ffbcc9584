// SPDX-License-Identifier: MPL-2.0

//! What can't be done is said, with what to do about it; it never hangs and never panics.

mod common;

use common::rig::Rig;
use common::{End, constant, encode_times, scripted_pipeline};
use gst::prelude::*;

/// The error that a run with these properties ends with.
fn error(properties: &str) -> End {
    encode_times(
        &format!("vtparallelenc name=enc {properties}"),
        &constant(60),
    )
    .0
}

fn assert_says(properties: &str, parts: &[&str]) {
    let text = error(properties).error();
    for part in parts {
        assert!(text.contains(part), "{properties}: {text}");
    }
}

#[test]
fn no_such_encoder() {
    assert_says(
        "encoder=nosuchenc",
        &["nosuchenc", "set the property 'encoder'"],
    );
}

#[test]
fn a_description_that_does_not_parse() {
    assert_says("encoder=\"jpegenc nosuchproperty=1\"", &["nosuchproperty"]);
    assert_says("encoder=\"jpegenc ! ! \"", &["can't be made"]);
}

#[test]
fn what_is_no_encoder() {
    assert_says("encoder=identity", &["contains no encoder"]);
    assert_says(
        "encoder=\"vtparallelenc\"",
        &["contains vtparallelenc itself"],
    );
    assert_says("encoder=\"jpegenc ! fakesink\"", &["a source or a sink"]);
}

#[test]
fn an_encoder_that_cannot_be_chosen() {
    // Downstream is a fakesink: it accepts anything.
    assert_says(
        "sessions=2",
        &["No encoder can be chosen", "encoder=x264enc"],
    );
}

#[test]
fn an_encoder_that_is_chosen_by_downstream() {
    let pipeline = common::Pipeline::parse(
        "videotestsrc num-buffers=60 ! vtparallelenc name=enc sessions=2 chunk-frames=20 ! image/jpeg ! fakesink",
    );
    pipeline.run().expect_eos();
    let encoder: String = pipeline.stats().get("encoder").unwrap();
    assert!(encoder.contains("jpeg"), "{encoder}");
}

#[test]
fn an_encoder_that_refuses_the_caps() {
    for sessions in ["sessions=2", "sessions=1 chunk-frames=10"] {
        assert_says(
            &format!("encoder=\"scriptedenc refuse-caps=true\" {sessions}"),
            &["refused the video", "videoconvert"],
        );
        // In a chain only the first frame shows it.
        assert_says(
            &format!("encoder=\"queue ! scriptedenc refuse-caps=true\" {sessions}"),
            &["refused the video"],
        );
    }
}

/// Where the plain encoder can't be linked.
#[test]
fn what_comes_after_takes_something_else() {
    for sessions in ["sessions=2", "sessions=1 chunk-frames=10"] {
        let pipeline = common::Pipeline::parse(&format!(
            "videotestsrc num-buffers=60 ! vtparallelenc name=enc {sessions} encoder=\"x265enc speed-preset=ultrafast\" ! \
             matroskamux ! fakesink"
        ));
        let warnings = pipeline.warnings();
        let _ = pipeline.run().error();
        let text = warnings.lock().unwrap().join("\n");
        for part in ["x265enc", "video/x-h265", "byte-stream", "a parser"] {
            assert!(text.contains(part), "{sessions}: {text}");
        }
    }
}

/// It said that it takes anything.
#[test]
fn what_comes_after_refuses_the_caps() {
    let rig = Rig::new("vtparallelenc sessions=2 chunk-frames=5 encoder=scriptedenc");
    rig.downstream.lock().unwrap().refuses_caps = true;
    rig.push_until_refused();
    assert_eq!(rig.push(2000), Err(gst::FlowError::NotNegotiated));
    let errors = rig.messages(&[gst::MessageType::Error]);
    let [error] = &errors[..] else {
        panic!("{errors:?}");
    };
    let gst::MessageView::Error(error) = error.view() else {
        panic!("{error:?}");
    };
    let text = error.error().to_string();
    for part in ["scriptedenc", "video/x-scripted", "a parser"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn too_little_memory_for_one_chunk() {
    // Only an overlap that was set can't be made smaller.
    assert_says(
        "encoder=scriptedenc sessions=2 chunk-frames=10 overlap-before=40 max-raw-bytes=10000",
        &[
            "needs 42 raw frames (10752 bytes)",
            "max-raw-bytes is 10000",
            "lower overlap-before",
        ],
    );
    for bytes in [1, 255, 511] {
        assert_says(
            &format!("encoder=scriptedenc sessions=2 max-raw-bytes={bytes}"),
            &["needs 2 raw frames", &format!("max-raw-bytes is {bytes}")],
        );
    }
}

#[test]
fn an_encoder_that_never_works_ends_with_its_own_message() {
    for sessions in [
        "sessions=3 chunk-frames=10",
        "sessions=1",
        "allow-parallel=false",
    ] {
        let end = error(&format!("encoder=\"scriptedenc fail-at=0\" {sessions}"));
        let End::Error { source, debug, .. } = end else {
            panic!("no error")
        };
        // Without chunks the encoder's own message is the application's.
        let parallel = sessions.contains("chunk-frames");
        let expected = if parallel { "enc" } else { "encoder" };
        assert_eq!(source, expected, "{debug}");
        assert!(debug.contains("scripted failure at frame 0"), "{debug}");
    }
}

#[test]
fn a_chunk_that_always_fails_ends_with_the_encoders_message() {
    let end = error("encoder=\"scriptedenc fail-at=25\" sessions=2 chunk-frames=10");
    let text = end.error();
    assert!(text.contains("scripted failure at frame 25"), "{text}");
}

#[test]
fn what_comes_before_a_chunk_that_fails_leaves() {
    for (sessions, early) in [(1, ""), (3, ""), (3, " bframes=2")] {
        let (end, output, _) = encode_times(
            &format!(
                "vtparallelenc name=enc sessions={sessions} chunk-frames=10 min-chunk-frames=4 encoder=\"scriptedenc fail-at=45{early}\""
            ),
            &constant(200),
        );
        assert!(end.error().contains("scripted failure at frame 45"));
        assert_eq!(output.frames().len(), 40, "{sessions}");
    }
}

#[test]
fn a_chunk_that_fails_twice_is_nobodys_business() {
    let (end, output, stats) = encode_times(
        "vtparallelenc name=enc sessions=2 chunk-frames=10 \
         encoder=\"scriptedenc fail-at=25 fail-times=2 failure=nobodys-business\"",
        &constant(60),
    );
    end.expect_eos();
    assert_eq!(output.packets.len(), 60);
    assert_eq!(stats.unwrap().get::<u64>("attempts-failed").unwrap(), 2);
}

#[test]
fn downstreams_error_reaches_upstream() {
    for flow in [
        gst::FlowError::Error,
        gst::FlowError::NotNegotiated,
        gst::FlowError::NotLinked,
    ] {
        let pipeline = scripted_pipeline(
            "vtparallelenc name=enc encoder=scriptedenc sessions=2 chunk-frames=10 ! identity name=id",
        );
        let src = pipeline.element("id").static_pad("sink").unwrap();
        src.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            info.flow_res = Err(flow);
            gst::PadProbeReturn::Handled
        });
        let app = common::app_src(&pipeline);
        for (number, &time) in constant(500).iter().enumerate() {
            app.push_buffer(common::gray(number as u64, time)).unwrap();
        }
        // No EOS: it is upstream that stops, because it was told.
        let text = pipeline.run().error();
        assert!(
            text.contains("Internal data stream error"),
            "{flow:?}: {text}"
        );
    }
}

#[test]
fn downstreams_error_after_the_last_frame_is_reported_too() {
    let (end, ..) = encode_times(
        "vtparallelenc name=enc encoder=scriptedenc sessions=2 chunk-frames=100 ! identity error-after=3",
        &constant(60),
    );
    assert!(!end.error().is_empty());
}

#[test]
fn caps_that_are_no_video() {
    let pipeline = common::Pipeline::parse(
        "appsrc name=src format=time caps=\"video/x-raw,format=(string)GRAY8\" ! \
         vtparallelenc name=enc encoder=scriptedenc sessions=2 ! fakesink",
    );
    let src = common::app_src(&pipeline);
    let time = constant(1)[0];
    src.push_buffer(common::gray(0, time)).unwrap();
    let text = pipeline.run().error();
    assert!(
        text.contains("not raw video") || text.contains("not-negotiated"),
        "{text}"
    );
}

#[test]
fn downstreams_end_is_the_end() {
    // Whoever wants no more packets still gets the EOS that it waits for.
    for chunk in [5, 100] {
        let (end, ..) = encode_times(
            &format!(
                "vtparallelenc name=enc encoder=scriptedenc sessions=2 chunk-frames={chunk} ! identity eos-after=10"
            ),
            &constant(60),
        );
        end.expect_eos();
    }
}

#[test]
fn downstreams_error_between_the_last_frame_and_the_end() {
    let pipeline = scripted_pipeline(
        "vtparallelenc name=enc encoder=scriptedenc sessions=2 chunk-frames=10 ! identity name=id",
    );
    let (sender, refused) = std::sync::mpsc::channel();
    let src = pipeline.element("id").static_pad("sink").unwrap();
    let sender = std::sync::Mutex::new(sender);
    src.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        info.flow_res = Err(gst::FlowError::NotNegotiated);
        let _ = sender.lock().unwrap().send(());
        gst::PadProbeReturn::Handled
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    let app = common::app_src(&pipeline);
    for (number, &time) in constant(40).iter().enumerate() {
        app.push_buffer(common::gray(number as u64, time)).unwrap();
    }
    refused.recv().unwrap();
    let _ = app.end_of_stream();
    let text = pipeline.end().error();
    assert!(text.contains("Internal data stream error"), "{text}");
}

#[test]
fn a_stop_is_no_failure() {
    for _ in 0..20 {
        let pipeline = scripted_pipeline(
            "vtparallelenc name=enc encoder=scriptedenc sessions=2 chunk-frames=10",
        );
        let app = common::app_src(&pipeline);
        for (number, &time) in constant(60).iter().enumerate() {
            app.push_buffer(common::gray(number as u64, time)).unwrap();
        }
        let bus = pipeline.bus().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        pipeline.set_state(gst::State::Ready).unwrap();
        assert!(bus.pop_filtered(&[gst::MessageType::Error]).is_none());
    }
}
