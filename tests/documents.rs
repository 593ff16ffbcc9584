// SPDX-License-Identifier: MPL-2.0

//! The commands in the documents: each line of GStreamer's tools in a `sh` block is run, in a directory with the files that the documents
//! speak of, and with fewer frames. Links lead somewhere, and examples of programs are those of `examples/`.
//!
//! gst-launch-1.0 doesn't always end, whatever the encoder. It goes to PLAYING when the pipeline says PAUSED, while the thread that says so is
//! still in `gst_bin_post_message()`, which afterwards notes "not playing" (`posted_playing`) over the "playing" of the other thread. Then
//! the EOS of the sinks is never posted. With hlssink2 and both cores busy that is one run in ten. It is known by the last words of `bin`.

mod common;

use common::{init, tool};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

/// Name and text of each document.
fn documents() -> Vec<(String, String)> {
    let mut paths = vec![
        root().join("README.md"),
        root().join("CONTRIBUTING.md"),
        root().join("CHANGELOG.md"),
    ];
    let docs = std::fs::read_dir(root().join("docs")).unwrap();
    paths.extend(docs.map(|entry| entry.unwrap().path()));
    paths.retain(|path| path.extension().is_some_and(|it| it == "md"));
    paths.sort();
    let named = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    paths.into_iter().map(named).collect()
}

/// Blocks of a language, with their first lines.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<(usize, Vec<&'a str>)> {
    let mut blocks = Vec::new();
    let mut block: Option<(usize, Vec<&str>)> = None;
    for (number, line) in text.lines().enumerate() {
        match &mut block {
            None if line == format!("```{language}") => block = Some((number + 2, Vec::new())),
            Some(_) if line == "```" => blocks.extend(block.take()),
            Some((_, lines)) => lines.push(line),
            None => (),
        }
    }
    blocks
}

/// Commands of GStreamer's tools, whole, and the variables that they use.
fn commands(lines: &[&str]) -> String {
    let mut script = String::new();
    let mut goes_on = false;
    for line in lines {
        let is_tool = [
            "gst-launch-1.0",
            "gst-inspect-1.0",
            "ges-launch-1.0",
            "profile=",
        ];
        if goes_on || is_tool.iter().any(|tool| line.starts_with(tool)) {
            script.push_str(line);
            script.push('\n');
            goes_on = line.ends_with('\\');
        }
    }
    script
}

/// A short film with sound, under the names that the documents have for one.
fn film(dir: &Path) {
    let made = run(
        dir,
        "gst-launch-1.0 -q mp4mux name=m ! filesink location=smaller.mp4 \
             videotestsrc num-buffers=90 ! video/x-raw,width=320,height=240,framerate=30/1 ! x264enc speed-preset=ultrafast ! h264parse ! queue ! m. \
             audiotestsrc num-buffers=141 samplesperbuffer=1024 ! audio/x-raw,rate=48000 ! avenc_aac ! queue ! m.",
    );
    assert!(made.status.success(), "{made:?}");
}

/// Runs commands in a directory. They are begun again if GStreamer loses their EOS.
fn run(dir: &Path, script: &str) -> std::process::Output {
    for _ in 0..3 {
        let log = dir.join("bin.log");
        let output = tool(dir, "timeout")
            .current_dir(dir)
            .env("HOME", dir)
            .env("GST_DEBUG", "bin:6")
            .env("GST_DEBUG_NO_COLOR", "1")
            .env("GST_DEBUG_FILE", &log)
            .args(["--kill-after=5", "120", "sh", "-ec", script])
            .output()
            .unwrap();
        if output.status.code() != Some(124) {
            return output;
        }
        let log = std::fs::read_to_string(log).unwrap();
        let last: Vec<&str> = log.lines().rev().take(10).collect();
        let is_lost = matches!(last[..], [end, before, ..]
            if end.contains("bin_do_eos:<pipeline0> Not forwarding EOS")
                && before.contains("got new message")
                && before.contains("eos from"));
        assert!(is_lost, "{script} hangs; the last words: {last:#?}");
        println!("the EOS of {script} was lost");
    }
    panic!("the EOS of {script} is always lost");
}

#[test]
fn every_command_works() {
    init();
    let mut tried = 0;
    for (name, text) in documents() {
        for (line, block) in blocks(&text, "sh") {
            let script = commands(&block);
            if script.is_empty() {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            film(dir.path());
            // As long as it takes to see that it works.
            let script = script.replace("num-buffers=1000", "num-buffers=100");
            let output = run(dir.path(), &script);
            let said = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "{name}:{line}:\n{script}\n{said}\n{errors}"
            );
            for wrong in ["WARNING: erroneous", "ERROR"] {
                assert!(
                    !errors.contains(wrong),
                    "{name}:{line}:\n{script}\n{errors}"
                );
            }
            for file in [
                "out.mp4",
                "test.mp4",
                "test.webm",
                "list.m3u8",
                "timeline.json",
            ] {
                if script.contains(file) {
                    let made = std::fs::metadata(dir.path().join(file));
                    assert!(made.is_ok_and(|it| it.len() > 50), "{name}:{line}: {file}");
                }
            }
            tried += 1;
        }
    }
    assert!(tried >= 6, "the documents have moved: {tried}");
}

#[test]
fn links_lead_somewhere() {
    for (name, text) in documents() {
        let dir = root().join(&name);
        let dir = dir.parent().unwrap();
        for part in text.split("](").skip(1) {
            let target = part.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() {
                root().join(&name)
            } else {
                dir.join(file)
            };
            assert!(path.exists(), "{name}: {target}");
            if !anchor.is_empty() {
                let of = std::fs::read_to_string(&path).unwrap();
                let headings = of.lines().filter(|line| line.starts_with('#'));
                let is_it = |line: &str| {
                    let kept = line.trim_start_matches(['#', ' ']).to_lowercase();
                    let kept = kept
                        .chars()
                        .filter(|it| it.is_alphanumeric() || [' ', '-', '_'].contains(it));
                    kept.collect::<String>().replace(' ', "-") == anchor
                };
                assert!(headings.into_iter().any(is_it), "{name}: {target}");
            }
        }
    }
}
