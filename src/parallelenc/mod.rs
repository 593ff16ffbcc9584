// SPDX-License-Identifier: MPL-2.0

/**
 * SECTION:element-vtparallelenc
 *
 * `vtparallelenc` encodes one video with several encoders at once and hands on a single stream, as one encoder would have
 * made it. It stands wherever a video encoder stands.
 *
 * The video is cut into *chunks*: runs of frames that one encoder encodes from the first to the last. Each chunk is encoded
 * by a fresh encoder, up to #vtparallelenc:sessions of them at the same time, and its packets leave when it was verified: every frame
 * there, once, beginning with a key frame. PTS and durations are those of the input; DTS are made anew and increase strictly.
 *
 * With the same chunks the output is the same to the byte for any number of sessions, as long as the encoder is
 * deterministic itself. Known encoders are given one thread each where their threads weren't set and what they make depends on
 * the number: several encoders with all threads each would hold each other up besides. Encoders whose bits don't depend on it
 * get cores / sessions.
 *
 * Chunks end where the encoder would make a key frame in any case, so that they cost no bits: at cuts, which are looked for in the video
 * (#vtparallelenc:cut), and at the greatest distance of its key frames, as far as #vtparallelenc:max-raw-bytes holds what lies between.
 *
 * An encoder with a rate control is given some frames before and after its chunk, whose packets are thrown away
 * (#vtparallelenc:overlap-before and #vtparallelenc:overlap-after), so that this settles and its look-ahead sees what
 * comes. That needs key frames that can be forced and that close the GOP before them. Each chunk is looked into: H.264 and H.265 by NAL
 * units, VP8, VP9 and AV1 by their frame headers, other formats by the order and the flags of their packets. If an encoder turns
 * out to ignore or open its forced key frames, its chunks get no overlap, which always works, because a fresh encoder begins with
 * a key frame; a warning on the bus names the encoder.
 *
 * H.264 and H.265 parameter sets that come once only, or differ between chunks, are put before the chunk's first picture where
 * the format carries them in band (`byte-stream`, `avc3`, `hev1`). With `avc` and `hvc1` they have to be the same in all chunks; otherwise
 * the pipeline fails with an error that names the chunk and what differs.
 *
 * Parallel encoding holds raw video: at most #vtparallelenc:max-raw-bytes. It holds encoded video back, too, so that a
 * pipeline with sound needs a queue in the audio branch that holds as much time as is held back.
 *
 * Frames that come from a buffer pool with fewer buffers than are held are copied once (`frames-copied` in #vtparallelenc:stats);
 * upstream is told how many that are. A DRAIN query ends the open chunk and returns when no frame is held any more.
 *
 * Force-key-unit events from either side make a key frame at that frame, with the event before it, as with any encoder, and
 * `min-force-key-unit-interval` of the child holds. A chunk that is long enough ends there, so that the key frame costs nothing. What
 * downstream asks for may have been taken in already: it is forced all the same as long as its chunk hasn't left. The first
 * packets of a stream leave before their chunk is whole, so that a muxer can ask in time, and the next requests are expected as
 * far apart as the last ones. So splitmuxsink, hlssink2 and dashsink get segments of exact length. (With an encoder that doesn't
 * say how far it reorders, or that is given an overlap without being known to close its GOPs, only from the second chunk on.)
 *
 * A live source is encoded by one encoder, unless #vtparallelenc:allow-parallel-live allows chunks: then the latency grows by as
 * many chunks as there are sessions, and what decides where a chunk ends, which the LATENCY query tells. QoS events go upstream; no
 * frame is dropped for them.
 *
 * Where parallel encoding isn't possible (#vtparallelenc:allow-parallel is false, one session, a live source,
 * alternating fields, an encoder that is known not to be usable in chunks), one encoder encodes the whole stream, and everything goes straight through it. So it is with an
 * encoder that isn't known, in a format that isn't looked into, because nothing would show whether its chunks stand alone; unless it
 * has the property `recommended-parallelization-limit` with a value above 0, by which it says that it can be cut.
 * #vtparallelenc:stats says why.
 *
 * ## The encoder
 *
 * #vtparallelenc:encoder names it, or it is the highest ranked one for what downstream accepts; #vtparallelenc:active-encoder says
 * which. `vtparallelh264enc`, `vtparallelh265enc`, `vtparallelvp8enc`, `vtparallelvp9enc`, `vtparallelav1enc`, `vtparallelmpeg2enc`,
 * `vtparallelmpeg4enc`, `vtparalleltheoraenc`, `vtparallelproresenc`, `vtparalleldnxhdenc`, `vtparallelffv1enc`, `vtparalleljpegenc` and
 * `vtparalleljpeg2000enc` are the same element with one format each, for tools that choose an encoder by its format: encodebin,
 * uritranscodebin, GES.
 *
 * Its properties are those of the child `encoder` (`encoder::bitrate=4000`), or fields of #vtparallelenc:encoder-properties. Set
 * in mid-stream they hold from each session's next chunk on. #vtparallelenc::encoder-setup shows each fresh encoder
 * before it is opened, in the thread of its session (in the first one's case, of whoever starts the element).
 *
 * An encoder with properties of VideoToolbox's names (`more-frames-before-start`, `more-frames-after-end`, `source-frame-count`,
 * `expected-frame-rate`) is told of its chunk by them; one with `recommended-parallelization-limit` and
 * `recommended-parallelized-subdivision-minimum-…` is heard.
 *
 * ## Presets
 *
 * GstPreset saves and loads the element's own properties. What a preset shall say of the encoder is in #vtparallelenc:encoder and
 * #vtparallelenc:encoder-properties.
 *
 * ## Examples
 *
 * |[
 * gst-launch-1.0 videotestsrc num-buffers=1000 ! vtparallelenc encoder="x264enc pass=qual quantizer=23" ! h264parse ! mp4mux ! filesink location=out.mp4
 * ]|
 * |[
 * gst-launch-1.0 videotestsrc num-buffers=1000 ! vtparallelvp9enc encoder::target-bitrate=2000000 ! webmmux ! filesink location=out.webm
 * ]|
 *
 * ## Security
 *
 * #vtparallelenc:encoder builds elements as `gst-launch-1.0` does. It must not come from strangers.
 */
use gst::prelude::*;

mod codecs;
mod host;
pub(crate) mod imp;
mod presets;
pub(crate) mod settings;

glib::wrapper! {
    pub struct ParallelEnc(ObjectSubclass<imp::ParallelEnc>)
        @extends gst::Bin, gst::Element, gst::Object, @implements gst::ChildProxy, gst::Preset;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(
        Some(plugin),
        "vtparallelenc",
        gst::Rank::NONE,
        ParallelEnc::static_type(),
    )?;
    codecs::register(plugin)
}
