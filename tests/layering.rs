// SPDX-License-Identifier: MPL-2.0

//! Which part of the source may use which, and what the brains may not know.

use std::fs;
use std::path::{Path, PathBuf};

/// Layers, the lowest first. A module uses those of lower layers, and those that it stands in one group with.
const LAYERS: &[&[&[&str]]] = &[
    &[&["logic"]],
    &[
        &["media"],
        &["clock", "host", "job", "panics", "shares", "tasks"],
    ],
    &[&["cache"], &["encoder"]],
    &[&["session"]],
    &[&["stream"]],
    &[&["parallelenc"]],
    &[&["export"]],
];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All files below a folder, with their paths from `src`.
fn files(folder: &Path, into: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let name = path.strip_prefix(src()).unwrap().to_str().unwrap();
            into.push((name.to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Lines that aren't comments, with their numbers.
fn code(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = source.lines().enumerate();
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The layer, and the group in it.
fn place(module: &str) -> Option<(usize, &'static [&'static str])> {
    LAYERS.iter().enumerate().find_map(|(layer, groups)| {
        let group = groups.iter().find(|group| group.contains(&module))?;
        Some((layer, *group))
    })
}

/// The modules of the crate that a line names.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let paths = line.split("crate::").skip(1);
    paths.filter_map(|path| {
        let end = path.find(|letter: char| !letter.is_alphanumeric() && letter != '_')?;
        // What isn't a module is the crate's own.
        path[end..].starts_with([':', ';']).then_some(&path[..end])
    })
}

#[test]
fn a_layer_uses_lower_layers_only() {
    let mut all = Vec::new();
    files(&src(), &mut all);
    for (name, source) in all.iter().filter(|(name, _)| name != "lib.rs") {
        let module = name.split(['/', '.']).next().unwrap();
        let (layer, group) = place(module).unwrap_or_else(|| panic!("{module} has no layer"));
        for (number, line) in code(source) {
            let at = format!("{name}:{}: {line}", number + 1);
            assert!(!line.contains("crate::{"), "one path for each module: {at}");
            for used in named(line) {
                let (below, _) = place(used).unwrap_or_else(|| panic!("{used} has no layer: {at}"));
                let may_use = below < layer || group.contains(&used);
                assert!(may_use, "{module} may not use {used}: {at}");
            }
        }
    }
    assert!(all.len() > 30, "the source has moved");
}

#[test]
fn the_brains_are_plain_rust() {
    let mut all = Vec::new();
    files(&src().join("logic"), &mut all);
    for (name, source) in &all {
        for (number, line) in code(source) {
            let words: Vec<&str> = line
                .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .collect();
            for foreign in [
                "gst",
                "glib",
                "gst_video",
                "gst_base",
                "Instant",
                "SystemTime",
                "thread",
                "Mutex",
                "Condvar",
                "fs",
                "File",
            ] {
                assert!(
                    !words.contains(&foreign),
                    "{name}:{} names {foreign}: {line}",
                    number + 1
                );
            }
        }
    }
    assert!(all.len() >= 8, "the brains have moved");
}

/// What reads at one sitting.
#[test]
fn no_file_is_too_long() {
    let mut all = Vec::new();
    files(&src(), &mut all);
    for (name, source) in &all {
        let lines = source.lines();
        let without_tests = lines.take_while(|line| *line != "#[cfg(test)]").count();
        // A file of tests has none beside them.
        let is_of_tests = name.ends_with("/tests.rs");
        assert!(
            without_tests <= 600 || is_of_tests,
            "{name} has {without_tests} lines without its tests"
        );
    }
}
