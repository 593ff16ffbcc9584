// SPDX-License-Identifier: MPL-2.0

//! How much is left of the picture.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// VMAF takes longer than many an encoder: it looks at one of so many frames.
const VMAF_EACH: usize = 3;

/// Of one encoded video.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    pub bytes: u64,
    /// Of the luma, over all frames, in dB.
    pub psnr: f64,
    pub vmaf: Option<f64>,
}

/// An ffmpeg, and whether it has VMAF, which Debian's has not.
struct Judge {
    ffmpeg: OsString,
    vmaf: bool,
}

static JUDGE: LazyLock<Judge> = LazyLock::new(|| {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/bench/bin/python3");
    let pythons = [installed.as_os_str(), OsStr::new("python3")];
    let of_pythons = pythons.into_iter().filter_map(|python| {
        let script = "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())";
        let said = output(Command::new(python).args(["-c", script]))?;
        Some(OsString::from(said.trim()))
    });
    let with_vmaf = std::iter::once(OsString::from("ffmpeg"))
        .chain(of_pythons)
        .find(|ffmpeg| {
            let filters = output(Command::new(ffmpeg).args(["-hide_banner", "-filters"]));
            filters.is_some_and(|filters| filters.contains(" libvmaf "))
        });
    Judge {
        vmaf: with_vmaf.is_some(),
        ffmpeg: with_vmaf.unwrap_or_else(|| "ffmpeg".into()),
    }
});

fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(said)
}

/// For the reader.
pub fn about() -> String {
    match JUDGE.vmaf {
        true => format!("VMAF is libvmaf's with its default model, of one frame in {VMAF_EACH}."),
        false => "No ffmpeg with VMAF is here; `scripts/setup bench` installs one.".to_string(),
    }
}

/// Names the frames of both that stand at the same place.
const PAIRED: &str = "[0:v]format=yuv420p,settb=1/24,setpts=N[video];[1:v]format=yuv420p,settb=1/24,setpts=N[source];";

/// Of each frame's luma: PSNR in dB, and SSIM; see [`quality`].
pub fn of_frames(video: &Path, input: &[String], source: &Path) -> (Vec<f64>, Vec<f64>) {
    let filter = format!(
        "{PAIRED}[video]split[a][b];[source]split[c][d];[a][c]psnr=stats_file=-,nullsink;[b][d]ssim=stats_file=-"
    );
    let mut command = Command::new(&JUDGE.ffmpeg);
    command.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-i"]);
    command.arg(video).args(input).arg("-i").arg(source);
    command.args(["-lavfi", &filter, "-f", "null", "-"]);
    let said = output(&mut command).unwrap_or_else(|| panic!("{command:?}"));
    let of = |mark: &str| {
        let frames = said.lines().filter_map(|line| {
            let (_, rest) = line.split_once(mark)?;
            let number = rest.split_whitespace().next()?;
            // Without loss it is infinite.
            number.parse::<f64>().ok().map(|number| number.min(99.0))
        });
        frames.collect()
    };
    (of("psnr_y:"), of(" Y:"))
}

/// Compares it with what it was made of: what ffmpeg needs to read that, and its path. It has to have as many frames.
pub fn quality(video: &Path, input: &[String], source: &Path, frames: u64) -> Quality {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut filter = PAIRED.to_string();
    filter += match JUDGE.vmaf {
        true => "[video]split[a][b];[source]split[c][d];[b][d]psnr,nullsink;[a][c]libvmaf",
        false => "[video][source]psnr",
    };
    if JUDGE.vmaf {
        filter += &format!("=n_threads={cores}:n_subsample={VMAF_EACH}");
    }
    let mut command = Command::new(&JUDGE.ffmpeg);
    command.args(["-hide_banner", "-nostdin", "-i"]).arg(video);
    command.args(input).arg("-i").arg(source);
    command.args(["-lavfi", &filter, "-f", "null", "-"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    let after = |mark: &str| {
        let (_, rest) = said.rsplit_once(mark)?;
        let number = rest.split_whitespace().next()?;
        match number {
            "inf" => Some(f64::INFINITY),
            _ => number.parse::<f64>().ok(),
        }
    };
    let counted = after("frame=").unwrap_or_default();
    assert_eq!(counted as u64, frames, "{command:?}: {said}");
    Quality {
        bytes: std::fs::metadata(video).unwrap().len(),
        psnr: after("PSNR y:").unwrap(),
        vmaf: JUDGE.vmaf.then(|| after("VMAF score:").unwrap()),
    }
}
