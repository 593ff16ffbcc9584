// SPDX-License-Identifier: MPL-2.0

//! GstPreset: saves and loads the element's own properties.
//!
//! Two things that GStreamer does by default (1.22) don't fit:
//!
//! - It saves each property of each child, too. Loaded, all of them would count as set by the user, and nothing would be left to be
//!   chosen for chunks (threads, closed GOPs). What a preset shall say of the encoder is in `encoder` and `encoder-properties`.
//! - It can't load what it saves of a structure, or of a text with spaces: the key file escapes what was escaped already. So these
//!   two are saved as metadata as well, which are kept as they are, and loaded from there.

use super::ParallelEnc;
use crate::panics;
use glib::translate::{Borrowed, IntoGlib, ToGlibPtr, from_glib_borrow};
use gst::prelude::*;
use gst::subclass::prelude::*;
use once_cell::sync::OnceCell;
use std::cell::Cell;
use std::ffi::c_char;

type Act = unsafe extern "C" fn(*mut gst::ffi::GstPreset, *const c_char) -> glib::ffi::gboolean;

/// GStreamer's own functions.
static DEFAULT: OnceCell<(Act, Act)> = OnceCell::new();

/// Properties whose text the key file garbles, in the order in which they are set.
const TEXTS: [&str; 2] = ["encoder", "encoder-properties"];

/// What is kept of one that is unset: metadata without a value are not kept.
const UNSET: &str = "-";

std::thread_local! {
    /// A preset is being saved in this thread.
    static SAVING: Cell<bool> = const { Cell::new(false) };
}

/// Takes the places of three of the interface's functions.
pub(super) fn adapt<C>(class: &mut C) {
    // SAFETY: `class` is a class structure that is being initialized, and the interface is one of its type: its vtable is there
    // already, belongs to this class alone, and nobody else uses it yet.
    unsafe {
        let vtable = glib::gobject_ffi::g_type_interface_peek(
            class as *mut C as glib::ffi::gpointer,
            gst::Preset::static_type().into_glib(),
        );
        if let Some(vtable) = (vtable as *mut gst::ffi::GstPresetInterface).as_mut() {
            vtable.get_property_names = Some(own_property_names);
            if let Some(default) = vtable.load_preset.zip(vtable.save_preset) {
                DEFAULT.get_or_init(|| default);
                vtable.load_preset = Some(load);
                vtable.save_preset = Some(save);
            }
        }
    }
}

/// Does `act` on the element, which GStreamer passes as a valid preset.
unsafe fn on_element<R>(
    preset: *mut gst::ffi::GstPreset,
    what: &str,
    fallback: impl Fn() -> R,
    act: impl FnOnce(&ParallelEnc) -> R,
) -> R {
    // SAFETY: the caller says so.
    let preset: Borrowed<gst::Preset> = unsafe { from_glib_borrow(preset) };
    match preset.downcast_ref::<ParallelEnc>() {
        Some(element) => panics::caught(element.imp(), what, &fallback, || act(element)),
        None => fallback(),
    }
}

/// The names of the properties that can be read and set, to be freed by the caller.
unsafe extern "C" fn own_property_names(preset: *mut gst::ffi::GstPreset) -> *mut *mut c_char {
    // SAFETY: passed on as it came.
    unsafe { on_element(preset, "names of presets", Vec::new, names) }.to_glib_full()
}

fn names(element: &ParallelEnc) -> Vec<String> {
    let properties = element.list_properties();
    let kept = properties.iter().filter(|property| {
        let is_text = SAVING.get() && TEXTS.contains(&property.name());
        property.flags().contains(glib::ParamFlags::READWRITE)
            && property.owner_type().is_a(ParallelEnc::static_type())
            && !is_text
    });
    kept.map(|property| property.name().to_string()).collect()
}

/// Does what GStreamer does, and then `texts`, both with what GStreamer passes: a valid preset, and the name of one that is kept.
unsafe fn with_texts(
    preset: *mut gst::ffi::GstPreset,
    name: *const c_char,
    default: Option<Act>,
    texts: impl FnOnce(&ParallelEnc, &str),
) -> glib::ffi::gboolean {
    // SAFETY: these are the arguments that GStreamer passed for this function.
    let done = default.is_some_and(|default| unsafe { default(preset, name) } != glib::ffi::GFALSE);
    // SAFETY: a preset's name is a valid string.
    let name: Borrowed<glib::GString> = unsafe { from_glib_borrow(name) };
    let act = |element: &ParallelEnc| {
        texts(element, &name);
        true
    };
    // SAFETY: passed on as it came.
    let done = done && unsafe { on_element(preset, "a preset", || false, act) };
    done.into_glib()
}

unsafe extern "C" fn save(
    preset: *mut gst::ffi::GstPreset,
    name: *const c_char,
) -> glib::ffi::gboolean {
    SAVING.set(true);
    let default = DEFAULT.get().map(|it| it.1);
    // SAFETY: passed on as they came.
    let saved = unsafe { with_texts(preset, name, default, keep_texts) };
    SAVING.set(false);
    saved
}

unsafe extern "C" fn load(
    preset: *mut gst::ffi::GstPreset,
    name: *const c_char,
) -> glib::ffi::gboolean {
    let default = DEFAULT.get().map(|it| it.0);
    // SAFETY: passed on as they came.
    unsafe { with_texts(preset, name, default, set_texts) }
}

fn keep_texts(element: &ParallelEnc, name: &str) {
    let encoder: Option<String> = element.property("encoder");
    let properties: Option<gst::Structure> = element.property("encoder-properties");
    let texts = [encoder, properties.map(|it| it.to_string())];
    for (property, text) in TEXTS.into_iter().zip(texts) {
        // A line of a key file is one line.
        let line = text.map_or(UNSET.to_string(), |text| text.replace('\n', " "));
        let _ = element.set_meta(name, property, Some(line.as_str()));
    }
}

fn set_texts(element: &ParallelEnc, name: &str) {
    for property in TEXTS {
        // (One that was written by hand has no such metadata.)
        let Some(text) = element.meta(name, property) else {
            continue;
        };
        let text = Some(text.as_str()).filter(|text| *text != UNSET);
        if property == "encoder" {
            element.set_property(property, text);
        } else {
            let structure = text.and_then(|text| text.parse::<gst::Structure>().ok());
            element.set_property(property, structure);
        }
    }
}
