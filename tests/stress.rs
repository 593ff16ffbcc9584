// SPDX-License-Identifier: MPL-2.0

//! Encoder libraries share tables and threads among all their encoders in a process. They are opened and closed a thousand
//! times, by eight pipelines at once.

mod common;

use common::{Pipeline, init};
use gst::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const THREADS: usize = 8;
const CHUNKS: u32 = 125;

const ENCODERS: [&str; 4] = [
    "x264enc speed-preset=ultrafast",
    "x265enc speed-preset=ultrafast",
    "vp9enc deadline=1 cpu-used=8 lag-in-frames=0",
    "av1enc cpu-used=8 max-quantizer=63",
];

#[test]
fn a_thousand_sessions_in_eight_threads() {
    init();
    let opened = Arc::new(AtomicU32::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let opened = opened.clone();
            scope.spawn(move || {
                let encoder = ENCODERS[thread % ENCODERS.len()];
                let pipeline = Pipeline::parse(&format!(
                    "videotestsrc num-buffers={} ! video/x-raw,format=I420,width=64,height=64,framerate=25/1 ! \
                     vtparallelenc name=enc encoder=\"{encoder}\" sessions=2 chunk-frames=2 min-chunk-frames=1 \
                     overlap-before=0 overlap-after=0 ! fakesink name=sink sync=false",
                    2 * CHUNKS
                ));
                pipeline.element("enc").connect("encoder-setup", false, move |_| {
                    opened.fetch_add(1, Ordering::SeqCst);
                    None
                });
                pipeline.run().expect_eos();
                let stats = pipeline.stats();
                assert_eq!(stats.get::<u64>("chunks-finished").unwrap(), u64::from(CHUNKS), "{encoder}: {stats}");
                assert_eq!(stats.get::<u64>("frames-out").unwrap(), 2 * u64::from(CHUNKS), "{encoder}: {stats}");
                assert_eq!(stats.get::<u64>("attempts-failed").unwrap(), 0, "{encoder}: {stats}");
            });
        }
    });
    let opened = opened.load(Ordering::SeqCst);
    assert!(opened >= THREADS as u32 * CHUNKS, "{opened}");
}
