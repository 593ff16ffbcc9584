// SPDX-License-Identifier: MPL-2.0

//! Two passes over chunks, as `vtexport --multi-pass` makes them, against the encoder's own two passes over the whole film.

use crate::Form;
use crate::clip::Clip;
use crate::plugin;
use crate::process::{gst_launch, run};
use crate::quality;
use crate::table::Table;
use std::path::Path;
use std::process::Command;

struct Case {
    /// Without its bitrate.
    encoder: &'static str,
    /// The property for that, of so many bits per second.
    rate: (&'static str, u64),
    /// What is set besides, by hand, in each of its own passes; `@` stands for the file.
    passes: [&'static str; 2],
    parser: &'static str,
}

const VPX: [&str; 2] = [
    "multipass-mode=first-pass multipass-cache-file=@",
    "multipass-mode=last-pass multipass-cache-file=@",
];

const CASES: [Case; 4] = [
    Case {
        encoder: "x264enc speed-preset=veryfast",
        rate: ("bitrate", 1_000),
        passes: [
            "threads=1 vbv-buf-capacity=0 pass=pass1 multipass-cache-file=@",
            "threads=1 vbv-buf-capacity=0 pass=pass2 multipass-cache-file=@",
        ],
        parser: "h264parse ! ",
    },
    Case {
        encoder: "x265enc speed-preset=superfast",
        rate: ("bitrate", 1_000),
        passes: [
            "option-string=pools=1:frame-threads=1:slow-firstpass=0:pass=1:stats=@",
            "option-string=pools=1:frame-threads=1:pass=2:stats=@",
        ],
        parser: "h265parse ! ",
    },
    Case {
        encoder: "vp8enc deadline=1000000 cpu-used=5",
        rate: ("target-bitrate", 1),
        passes: VPX,
        parser: "",
    },
    Case {
        encoder: "vp9enc deadline=1000000 cpu-used=5",
        rate: ("target-bitrate", 1),
        passes: VPX,
        parser: "",
    },
];

/// In bits per second.
const RATES: [u64; 2] = [300_000, 900_000];

pub fn measure(form: Form) -> Vec<Table> {
    let clip = Clip::new(form);
    let (frames, seconds) = clip.length();
    let (cases, rates) = match form {
        Form::Full => (&CASES[..], &RATES[..]),
        Form::Short => (&CASES[..1], &RATES[..1]),
    };
    let mut rows = Vec::new();
    for case in cases {
        for &rate in rates {
            let encoder = format!("{} {}={}", case.encoder, case.rate.0, rate / case.rate.1);
            let [own, ours] = ["own.mkv", "ours.mkv"].map(|name| clip.folder().join(name));
            by_itself(form, case, &encoder, &clip, &own);
            run(&mut export(form, &encoder, &clip.film, &ours));
            let made = [&own, &ours].map(|made| quality::quality(made, &[], &clip.film, frames));
            let both = made.map(|made| made.bytes as f64 * 8.0 / seconds / 1_000.0);
            rows.push(vec![
                format!("`{}`", case.encoder),
                format!("{}", rate / 1_000),
                format!("{:.1}", both[0]),
                format!("{:.1}", both[1]),
                format!("{:.2} dB", made[0].psnr),
                format!("{:+.2} dB", made[1].psnr - made[0].psnr),
            ]);
        }
    }
    vec![Table {
        title: "Two passes",
        about: format!(
            "{film}, {frames} frames, without its sound: `vtexport --multi-pass` against the encoder's own two passes over \
             the whole film, with one thread (`x264enc pass=pass1`, then `pass=pass2`; libvpx with as many as it takes by itself). Rates are those of the files, in kbit/s; PSNR is of the luma.",
            film = clip.name
        ),
        columns: vec!["encoder", "asked", "its own", "ours", "PSNR", "ours"],
        rows,
    }]
}

/// Both passes.
fn by_itself(form: Form, case: &Case, encoder: &str, clip: &Clip, to: &Path) {
    let statistics = clip.folder().join("statistics").display().to_string();
    let film = clip.film.display();
    let ends = [
        "fakesink".to_string(),
        format!(
            "{}matroskamux ! filesink location=\"{}\"",
            case.parser,
            to.display()
        ),
    ];
    for (pass, end) in case.passes.iter().zip(ends) {
        let pass = pass.replace('@', &statistics);
        run(&mut gst_launch(
            form,
            &format!(
                "filesrc location=\"{film}\" ! decodebin ! videoconvert ! {encoder} {pass} ! {end}"
            ),
        ));
    }
}

fn export(form: Form, encoder: &str, film: &Path, to: &Path) -> Command {
    let mut command = plugin::vtexport(form);
    command.arg(film).arg("-o").arg(to);
    command.args(["--overwrite", "--quiet", "--audio", "none", "--multi-pass"]);
    command.args(["--video", encoder]);
    command
}
