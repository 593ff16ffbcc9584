// SPDX-License-Identifier: MPL-2.0

//! Real pictures with their number burnt in, to be found again after encoding and decoding.

use super::{End, Pipeline, constant, record};
use gst::prelude::*;
use std::path::Path;

pub const WIDTH: usize = 320;
pub const HEIGHT: usize = 240;
/// Edge of the squares that show a bit of the frame's number, in pixels.
const BIT: usize = 16;
const BITS: usize = 16;

pub const I420: &str = "video/x-raw,format=I420,width=320,height=240,framerate=25/1,\
     interlace-mode=progressive,pixel-aspect-ratio=1/1,colorimetry=bt601,chroma-site=jpeg";

const FRAME: usize = WIDTH * HEIGHT * 3 / 2;

/// Writes the number as black and white squares along the top.
fn burn(picture: &mut [u8], number: usize) {
    for bit in 0..BITS {
        let value = if number >> bit & 1 == 1 { 235 } else { 16 };
        for row in picture.chunks_mut(WIDTH).take(BIT) {
            row[bit * BIT..(bit + 1) * BIT].fill(value);
        }
    }
}

/// Reads the number that [`burn`] wrote.
pub fn number_of(picture: &[u8]) -> usize {
    (0..BITS)
        .filter(|bit| {
            let middle = (BIT / 2) * WIDTH + bit * BIT + BIT / 2;
            picture[middle] > 125
        })
        .map(|bit| 1 << bit)
        .sum()
}

/// A moving texture with a cut every 37 frames.
pub fn synthetic(frames: usize) -> Vec<Vec<u8>> {
    (0..frames)
        .map(|number| {
            let scene = number / 37;
            let mut picture = vec![128; FRAME];
            for y in 0..HEIGHT {
                for x in 0..WIDTH {
                    let (u, v) = (x + 3 * number, y + number + 50 * scene);
                    let texture = ((u * u / 64 + v * (scene + 3)) ^ (u * v / 97)) % 160;
                    picture[y * WIDTH + x] = 40 + texture as u8;
                }
            }
            for (at, value) in picture[WIDTH * HEIGHT..].iter_mut().enumerate() {
                *value = (96 + (at / 160 + number) % 64) as u8;
            }
            burn(&mut picture, number);
            picture
        })
        .collect()
}

/// Frames of a real clip, where the clips are there; not from its start, which fades in from black.
pub fn clip(frames: usize) -> Option<Vec<Vec<u8>>> {
    const FADE_IN: usize = 100;
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/media/big-buck-bunny-480p-30s.mp4");
    if !file.exists() {
        eprintln!("no clips beside the project: made pictures only");
        return None;
    }
    // (With direct rendering, avdec_h264 1.26 aborts now and then at a width that isn't a multiple of 16.)
    let pipeline = Pipeline::parse(&format!(
        "filesrc location={} ! qtdemux ! h264parse ! avdec_h264 direct-rendering=false ! videoscale ! videoconvert ! {I420},framerate=24/1 ! \
         fakesink name=sink num-buffers={}",
        file.display(),
        FADE_IN + frames
    )
    .replace("framerate=25/1,", ""));
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    pipeline.run().expect_eos();
    let mut pictures: Vec<_> = output
        .lock()
        .unwrap()
        .packets
        .iter()
        .skip(FADE_IN)
        .take(frames)
        .map(|packet| packet.bytes.clone())
        .collect();
    for (number, picture) in pictures.iter_mut().enumerate() {
        burn(picture, number);
    }
    Some(pictures)
}

/// A pipeline from pictures through `encoder` to `rest`, with a sink named `sink`.
pub fn pipeline(pictures: &[Vec<u8>], encoder: &str, rest: &str) -> Pipeline {
    let pipeline = Pipeline::parse(&format!(
        "appsrc name=src format=time max-bytes=0 caps={} ! {encoder} ! {rest}",
        I420.replace(',', "\\,").replace("I420", "(string)I420")
    ));
    let src = super::app_src(&pipeline);
    let times = constant(pictures.len() as u64);
    for (picture, (pts, duration)) in pictures.iter().zip(times) {
        let mut buffer = gst::Buffer::from_slice(picture.clone());
        let fields = buffer.get_mut().unwrap();
        fields.set_pts(pts);
        fields.set_duration(duration);
        src.push_buffer(buffer).unwrap();
    }
    src.end_of_stream().unwrap();
    pipeline
}

/// Encodes the pictures; it must end well.
pub fn encode(pictures: &[Vec<u8>], encoder: &str) -> super::Output {
    encode_with_stats(pictures, encoder).0
}

/// As above, and the statistics of the element `enc`, where there is one.
pub fn encode_with_stats(
    pictures: &[Vec<u8>],
    encoder: &str,
) -> (super::Output, Option<gst::Structure>) {
    let pipeline = pipeline(pictures, encoder, "fakesink name=sink sync=false");
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    match pipeline.run() {
        End::Eos => (),
        end => panic!("{encoder}: {end:?}"),
    }
    let enc = pipeline.by_name("enc");
    let stats = enc.map(|enc| enc.property::<gst::Structure>("stats"));
    pipeline.set_state(gst::State::Null).unwrap();
    let output = output.lock().unwrap().clone();
    (output, stats)
}

/// PSNR of the luma, in dB.
pub fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let luma = a[..WIDTH * HEIGHT].iter().zip(&b[..WIDTH * HEIGHT]);
    let squares: f64 = luma
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
        .sum();
    10.0 * (255.0 * 255.0 * (WIDTH * HEIGHT) as f64 / squares.max(1.0)).log10()
}

/// Encodes, decodes, and compares every picture with the one that went in: count, order, likeness.
pub fn assert_transparent(pictures: &[Vec<u8>], encoder: &str, decoder: &str, least_psnr: f64) {
    let rest = format!("{decoder} ! videoconvert ! {I420} ! fakesink name=sink sync=false")
        .replace(",framerate=25/1", "")
        .replace(",colorimetry=bt601,chroma-site=jpeg", "");
    let pipeline = pipeline(pictures, encoder, &rest);
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    pipeline.run().expect_eos();
    let output = output.lock().unwrap();
    let numbers: Vec<_> = output
        .packets
        .iter()
        .map(|packet| number_of(&packet.bytes))
        .collect();
    assert_eq!(
        numbers,
        (0..pictures.len()).collect::<Vec<_>>(),
        "{encoder}"
    );
    for (number, (packet, picture)) in output.packets.iter().zip(pictures).enumerate() {
        let psnr = psnr(&packet.bytes, picture);
        assert!(
            psnr > least_psnr,
            "{encoder}: frame {number} has {psnr:.1} dB"
        );
        let time = gst::ClockTime::from_mseconds(40) * number as u64;
        assert_eq!(packet.running_time, Some(time), "{encoder}: frame {number}");
    }
}
