// SPDX-License-Identifier: MPL-2.0

//! The plugin as users have it.

use crate::Form;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, OnceLock};

const FILE: &str = "libgstvtparallelenc.so";

/// What cargo builds with tests and benchmarks may panic where a test wants it, which costs time: what is measured is built without.
fn built(what: &[&str]) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let built = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["build", "--quiet", "--locked"])
        .args(what)
        .arg("--manifest-path")
        .arg(manifest)
        .status();
    assert!(built.unwrap().success(), "{what:?} can't be built");
    // This program is in `deps`.
    let beside = std::env::current_exe().unwrap();
    beside.ancestors().nth(2).unwrap().into()
}

/// The command `vtexport`, which has the plugin in it.
pub fn vtexport(form: Form) -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let what: &[&str] = match form {
            Form::Full => &["--release", "--package", "vtexport"],
            Form::Short => &["--package", "vtexport"],
        };
        built(what).join("vtexport")
    });
    let mut command = Command::new(program);
    command.env_remove("G_DEBUG");
    command
}

/// A folder with nothing but the plugin, for as long as this program runs.
fn folder(form: Form) -> &'static Path {
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    let copy = FOLDER.path().join(FILE);
    if !copy.exists() {
        let file = match form {
            Form::Full => built(&["--release", "--lib"]).join(FILE),
            Form::Short => std::env::current_exe().unwrap().with_file_name(FILE),
        };
        std::fs::copy(&file, &copy).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    FOLDER.path()
}

/// This process finds the plugin, and no other one.
pub fn found_by(form: Form, command: &mut Command) {
    let folder = folder(form);
    command
        .env("GST_PLUGIN_PATH", folder)
        .env("GST_REGISTRY", folder.join("registry.bin"))
        // Warnings of tools are their own.
        .env_remove("G_DEBUG");
}
