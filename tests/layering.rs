// SPDX-License-Identifier: MPL-2.0

//! What decides knows no GStreamer, no clock, no thread and no file.

use std::fs;
use std::path::Path;

#[test]
fn the_brains_are_plain_rust() {
    let logic = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/logic");
    let mut files = 0;
    for entry in fs::read_dir(logic).unwrap() {
        let path = entry.unwrap().path();
        let source = fs::read_to_string(&path).unwrap();
        let code = source
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for (number, line) in code.enumerate() {
            let words: Vec<&str> = line
                .split(|c: char| !c.is_alphanumeric() && c != '_')
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
                    "{}: code line {number} names {foreign}: {line}",
                    path.display()
                );
            }
        }
        files += 1;
    }
    assert!(files >= 8, "the brains have moved");
}
