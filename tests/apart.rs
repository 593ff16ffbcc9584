// SPDX-License-Identifier: MPL-2.0

//! Chunks that are encoded apart, each with its own frames only, and joined by what is left of the frames: the stream is that of one
//! element, to the byte.

mod common;

use common::pictures::{self, synthetic};
use common::{Output, Pipeline, Times, app_src, constant, gray, record, scripted_pipeline};
use gst::prelude::*;
use gstvtparallelenc::export::given::{Given, Part, SecondPass};
use gstvtparallelenc::export::{self, Digest};
use gstvtparallelenc::parallelenc::ParallelEnc;
use std::ops::Range;
use std::path::Path;

const FRAMES: usize = 100;

/// A film, and how it is encoded.
struct Film {
    frames: Vec<gst::Buffer>,
    caps: gst::Caps,
    /// Of the element, what comes after it too.
    element: String,
    /// The second of two passes over each chunk, if that is what is made.
    passes: Vec<SecondPass>,
}

impl Film {
    fn scripted(properties: &str, script: &str) -> Self {
        let times = constant(FRAMES as u64);
        let frames = times.iter().enumerate();
        Self {
            frames: frames
                .map(|(number, time)| gray(number as u64, *time))
                .collect(),
            caps: common::GRAY.parse().unwrap(),
            element: format!(
                "vtparallelenc name=enc {properties} encoder=\"scriptedenc {script}\""
            ),
            passes: Vec::new(),
        }
    }

    fn pictures(properties: &str, encoder: &str) -> Self {
        let times: Times = constant(FRAMES as u64);
        let frames = synthetic(FRAMES).into_iter().zip(times);
        Self {
            frames: frames
                .map(|(picture, (pts, duration))| {
                    let mut buffer = gst::Buffer::from_slice(picture);
                    let fields = buffer.get_mut().unwrap();
                    fields.set_pts(pts);
                    fields.set_duration(duration);
                    buffer
                })
                .collect(),
            caps: pictures::I420.parse().unwrap(),
            element: format!("vtparallelenc name=enc {properties} encoder=\"{encoder}\""),
            passes: Vec::new(),
        }
    }

    /// A pipeline with the element, and more of its properties.
    fn pipeline(&self, more: &str) -> (Pipeline, ParallelEnc) {
        let element = self
            .element
            .replacen("name=enc", &format!("name=enc {more}"), 1);
        let pipeline = scripted_pipeline(&element);
        app_src(&pipeline).set_caps(Some(&self.caps));
        let enc = pipeline.element("enc").downcast().unwrap();
        (pipeline, enc)
    }

    /// Runs it with these frames to the end.
    fn run(
        &self,
        pipeline: &Pipeline,
        frames: impl Iterator<Item = gst::Buffer>,
    ) -> Result<Output, String> {
        let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
        let src = app_src(pipeline);
        for frame in frames {
            src.push_buffer(frame).unwrap();
        }
        src.end_of_stream().unwrap();
        let end = pipeline.run();
        pipeline.set_state(gst::State::Null).unwrap();
        match end {
            common::End::Eos => Ok(output.lock().unwrap().clone()),
            end => Err(end.error()),
        }
    }

    fn plan(&self) -> export::Plan {
        let (pipeline, enc) = self.pipeline(&format!("source-frame-count={}", self.frames.len()));
        pipeline.set_state(gst::State::Paused).unwrap();
        let sink = enc.static_pad("sink").unwrap();
        sink.send_event(gst::event::StreamStart::new("plan"));
        sink.send_event(gst::event::Caps::new(&self.caps));
        export::plan(&enc, self.frames.len() as u64, &[]).unwrap()
    }

    /// All frames' digests.
    fn digests(&self) -> Vec<Digest> {
        let info = gst_video::VideoInfo::from_caps(&self.caps).unwrap();
        let digests = (0..)
            .zip(&self.frames)
            .map(|(place, frame)| export::digest(frame, &info, place));
        digests.collect::<Result<_, _>>().unwrap()
    }

    /// What both have that encode a part and that join them.
    fn shared(&self, plan: &export::Plan, cache: &Path) -> String {
        format!(
            "source-frame-count={} overlap-before={} overlap-after={} threads-per-session={} chunk-frames={} min-chunk-frames=1 \
             cache-location={} cache-max-bytes=0",
            self.frames.len(),
            plan.before,
            plan.after,
            plan.threads,
            plan.ends.last().unwrap(),
            cache.display()
        )
    }

    fn given(&self, plan: &export::Plan, part: Part) -> Given {
        Given {
            ends: plan.ends.clone().into(),
            part,
            passes: self.passes.clone().into(),
        }
    }

    fn chunk(&self, plan: &export::Plan, index: usize, cache: &Path) -> Result<(), String> {
        let more = format!("{} sessions=1 max-attempts=1", self.shared(plan, cache));
        let (pipeline, enc) = self.pipeline(&more);
        let given = self.given(plan, Part::Chunk(index));
        let fed = given.fed(index, plan.before, plan.after).unwrap();
        export::give(&enc, given);
        let fed: Range<usize> = fed.start.0 as usize..fed.end.0 as usize;
        self.run(&pipeline, self.frames[fed].iter().cloned())?;
        Ok(())
    }

    fn join(
        &self,
        plan: &export::Plan,
        digests: &[Digest],
        cache: &Path,
    ) -> Result<Output, String> {
        self.join_first(plan, plan.ends.len(), digests, cache)
    }

    /// The first chunks alone. Frames come with those that the last of them was fed after its own.
    fn join_first(
        &self,
        plan: &export::Plan,
        chunks: usize,
        digests: &[Digest],
        cache: &Path,
    ) -> Result<Output, String> {
        let more = format!("{} sessions=2 max-attempts=1", self.shared(plan, cache));
        let (pipeline, enc) = self.pipeline(&more);
        let mut given = self.given(plan, Part::Join);
        let fed = given.fed(chunks - 1, plan.before, plan.after).unwrap();
        given.ends = given.ends.iter().copied().take(chunks).collect();
        export::give(&enc, given);
        let frames = self.frames.iter().zip(digests).take(fed.end.0 as usize);
        let frames = frames.map(|(frame, digest)| {
            let mut left = export::stand_in(digest);
            let times = left.make_mut();
            times.set_pts(frame.pts());
            times.set_duration(frame.duration());
            left
        });
        self.run(&pipeline, frames)
    }

    /// The stream of one element, with the same chunks.
    fn whole(&self) -> Output {
        let (pipeline, _) = self.pipeline(&format!("source-frame-count={}", self.frames.len()));
        self.run(&pipeline, self.frames.iter().cloned()).unwrap()
    }

    fn assert_same(&self) {
        let plan = self.plan();
        assert!(plan.ends.len() > 2, "{plan:?}");
        let cache = tempfile::tempdir().unwrap();
        for index in (0..plan.ends.len()).rev() {
            self.chunk(&plan, index, cache.path()).unwrap();
        }
        let joined = self.join(&plan, &self.digests(), cache.path()).unwrap();
        let whole = self.whole();
        assert_eq!(joined.packets.len(), whole.packets.len());
        for (number, (joined, whole)) in joined.packets.iter().zip(&whole.packets).enumerate() {
            assert!(
                joined == whole,
                "packet {number} of {}: {joined:?} {whole:?}",
                self.element
            );
        }
    }
}

#[test]
fn chunks_that_were_encoded_apart_join_to_the_same_stream() {
    common::init();
    for script in ["", "bframes=2 look-ahead=3", "skip-every=7"] {
        for overlap in [(0, 0), (3, 5), (5, 0), (0, 40)] {
            let properties = format!(
                "sessions=3 chunk-frames=17 overlap-before={} overlap-after={}",
                overlap.0, overlap.1
            );
            Film::scripted(&properties, script).assert_same();
        }
    }
}

#[test]
fn so_it_is_with_real_encoders() {
    common::init();
    let none = "vbv-buf-capacity=0";
    for encoder in [
        format!("x264enc pass=qual quantizer=28 {none} speed-preset=fast"),
        format!("x264enc bitrate=200 {none} speed-preset=veryfast"),
        "x265enc speed-preset=ultrafast".to_string(),
        "vp8enc deadline=1000000 cpu-used=5 cq-level=20 end-usage=cq".to_string(),
        "vp9enc deadline=1 cpu-used=8".to_string(),
        "av1enc cpu-used=10 usage-profile=realtime".to_string(),
        "theoraenc".to_string(),
        "jpegenc".to_string(),
    ] {
        Film::pictures("sessions=2 chunk-frames=30", &encoder).assert_same();
    }
}

/// Lets an encoder make the first pass over these frames.
fn first_pass(film: &Film, frames: Range<usize>, encoder: &gst::Element) {
    let pipeline = scripted_pipeline("identity name=enc");
    let (enc, sink) = (pipeline.element("enc"), pipeline.element("sink"));
    enc.unlink(&sink);
    let bin = enc.parent().and_downcast::<gst::Bin>().unwrap();
    bin.add(encoder).unwrap();
    gst::Element::link_many([&enc, encoder, &sink]).unwrap();
    app_src(&pipeline).set_caps(Some(&film.caps));
    film.run(&pipeline, film.frames[frames].iter().cloned())
        .unwrap();
}

#[test]
fn the_second_of_two_passes_is_known_by_what_it_follows() {
    common::init();
    let properties = "sessions=2 chunk-frames=30 overlap-before=0 overlap-after=0";
    let description = "x264enc speed-preset=veryfast bitrate=300";
    let prepared = export::two_passes(description).unwrap();
    let told = format!(
        "{properties} encoder-properties=\"{}\"",
        prepared.properties.to_string().trim_end_matches(';')
    );
    let mut film = Film::pictures(&told, description);
    let plan = film.plan();
    let statistics = tempfile::tempdir().unwrap();
    let mut start = 0;
    for (index, &end) in plan.ends.iter().enumerate() {
        let path = statistics.path().join(index.to_string());
        let properties = &prepared.properties;
        let encoder = export::first_pass(description, properties, plan.threads, 300_000, &path);
        first_pass(&film, start..end as usize, &encoder.unwrap());
        assert!(path.metadata().unwrap().len() > 1_000);
        start = end as usize;
        film.passes.push(SecondPass {
            bitrate: 100_000 + 100_000 * index as u64,
            statistics: path,
            digest: format!("of {index}"),
            level: Some("2.1".into()),
        });
    }
    let cache = tempfile::tempdir().unwrap();
    for index in 0..plan.ends.len() {
        film.chunk(&plan, index, cache.path()).unwrap();
    }
    let digests = film.digests();
    let joined = film.join(&plan, &digests, cache.path()).unwrap();
    assert_eq!(joined.packets.len(), FRAMES);
    // More bits for each chunk than for the one before.
    let sizes = plan.ends.iter().scan(0, |start, &end| {
        let packets = &joined.packets[*start..end as usize];
        *start = end as usize;
        let bytes: usize = packets.iter().map(|packet| packet.bytes.len()).sum();
        Some(bytes / packets.len())
    });
    let sizes: Vec<usize> = sizes.collect();
    assert!(sizes.is_sorted(), "{sizes:?}");
    // Nothing that was made in another pass takes its place.
    let others: [fn(&mut SecondPass); 3] = [
        |pass| pass.bitrate += 1_000,
        |pass| pass.digest = "of another".into(),
        |pass| pass.level = None,
    ];
    for other in others {
        let passes = film.passes.clone();
        other(&mut film.passes[2]);
        let error = film.join(&plan, &digests, cache.path()).unwrap_err();
        assert!(error.contains("Chunk 2 "), "{error}");
        film.passes = passes;
    }
    // And whoever joins needs no statistics.
    drop(statistics);
    film.join(&plan, &digests, cache.path()).unwrap();
}

/// A film in chunks of 17, all of which are kept.
fn kept(script: &str) -> (Film, export::Plan, tempfile::TempDir) {
    common::init();
    let properties = "sessions=2 chunk-frames=17 overlap-before=3 overlap-after=5";
    let film = Film::scripted(properties, script);
    let plan = film.plan();
    let cache = tempfile::tempdir().unwrap();
    for index in 0..plan.ends.len() {
        film.chunk(&plan, index, cache.path()).unwrap();
    }
    (film, plan, cache)
}

#[test]
fn what_isnt_kept_is_missed_and_nothing_else_takes_its_place() {
    let (mut film, plan, cache) = kept("bframes=2");
    let digests = film.digests();
    film.join(&plan, &digests, cache.path()).unwrap();

    // Two frames changed places: no chunk of these was encoded.
    let mut others = digests.clone();
    others.swap(40, 41);
    let error = film.join(&plan, &others, cache.path()).unwrap_err();
    assert!(error.contains("Chunk 2 (frames 34 to 50"), "{error}");
    assert!(error.contains("isn't kept"), "{error}");

    // A frame that two chunks are fed.
    let mut others = digests.clone();
    others[16] = others[0];
    let error = film.join(&plan, &others, cache.path()).unwrap_err();
    assert!(error.contains("Chunk 0 "), "{error}");

    // Another time.
    let times = film.frames[99].make_mut();
    times.set_pts(times.pts().unwrap() + gst::ClockTime::from_mseconds(1));
    let error = film.join(&plan, &digests, cache.path()).unwrap_err();
    assert!(error.contains("Chunk 5 "), "{error}");
    let times = film.frames[99].make_mut();
    times.set_pts(times.pts().unwrap() - gst::ClockTime::from_mseconds(1));

    // Another encoder.
    let element = film.element.clone();
    film.element = element.replace("bframes=2", "bframes=1");
    let error = film.join(&plan, &digests, cache.path()).unwrap_err();
    assert!(error.contains("isn't kept"), "{error}");
    film.element = element;

    film.join(&plan, &digests, cache.path()).unwrap();
    // Damaged, and gone.
    let files: Vec<_> = std::fs::read_dir(cache.path()).unwrap().collect();
    assert_eq!(files.len(), plan.ends.len());
    let file = files[0].as_ref().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = film.join(&plan, &digests, cache.path()).unwrap_err();
    assert!(error.contains("isn't kept"), "{error}");
    // (It was of no use to anybody.)
    assert!(!file.exists());
    let error = film.join(&plan, &digests, cache.path()).unwrap_err();
    assert!(error.contains("isn't kept"), "{error}");
}

#[test]
fn a_chunk_that_fails_is_an_error_and_leaves_nothing() {
    common::init();
    let properties = "sessions=2 chunk-frames=17 overlap-before=3 overlap-after=5";
    for (script, says) in [
        (
            "fault=lose@frame failure=apart-lose fault-frame=40",
            "1 frames were not delivered",
        ),
        (
            "open-gop=true bframes=2",
            "refers across a forced key frame",
        ),
        ("ignore-keys=true", "not marked as a key frame"),
        (
            "fault=error@frame failure=apart-error fault-frame=40",
            "encode stream",
        ),
        (
            "fault=flow@frame failure=apart-flow fault-frame=40",
            "without saying why",
        ),
    ] {
        let film = Film::scripted(properties, script);
        let plan = film.plan();
        let cache = tempfile::tempdir().unwrap();
        let error = film.chunk(&plan, 2, cache.path());
        let error = error.expect_err(script);
        assert!(error.contains(says), "{script}: {error}");
        let left = std::fs::read_dir(cache.path()).unwrap().count();
        assert_eq!(left, 0, "{script}");
    }
    // Nowhere to keep it.
    let film = Film::scripted(properties, "");
    let plan = film.plan();
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = film.chunk(&plan, 2, file.path()).unwrap_err();
    assert!(error.contains("can't be kept"), "{error}");
}

/// Frames of which nobody has more than a few at once, however long the chunk is.
#[test]
fn the_frames_of_a_single_chunk_go_as_they_are_fed() {
    common::init();
    let film = Film::scripted(
        "sessions=2 chunk-frames=100 overlap-before=0 overlap-after=0",
        "",
    );
    let plan = export::Plan {
        ends: vec![100],
        ..film.plan()
    };
    let cache = tempfile::tempdir().unwrap();
    let more = format!("{} max-attempts=1", film.shared(&plan, cache.path()));
    let (pipeline, enc) = film.pipeline(&more);
    export::give(&enc, film.given(&plan, Part::Chunk(0)));
    let src = app_src(&pipeline);
    for frame in &film.frames {
        src.push_buffer(frame.clone()).unwrap();
    }
    src.end_of_stream().unwrap();
    pipeline.run().expect_eos();
    let peak: u64 = enc
        .property::<gst::Structure>("stats")
        .get("bytes-peak")
        .unwrap();
    assert!((256..=8 * 256).contains(&peak), "{peak}");
}

#[test]
fn a_film_can_be_joined_up_to_a_chunk() {
    let (film, plan, cache) = kept("bframes=2");
    let whole = film.whole().packets;
    let digests = film.digests();
    for (chunks, end) in plan.ends.iter().enumerate() {
        let output = film.join_first(&plan, chunks + 1, &digests, cache.path());
        let packets = output.unwrap().packets;
        assert_eq!(packets.len() as u64, *end);
        assert!(packets[..] == whole[..packets.len()], "up to {end}");
    }
}
