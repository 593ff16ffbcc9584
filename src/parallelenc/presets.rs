// SPDX-License-Identifier: MPL-2.0

//! GstPreset: saves and loads the element's own properties.
//!
//! Two things that GStreamer does by default (1.22) don't fit:
//!
//! - It saves each property of each child, too. Loaded, all of them would count as set by the user, and nothing would be left to be
//!   chosen for chunks (threads, closed GOPs). What a preset shall say of the encoder is in `encoder` and `encoder-properties`.
//! - It can't load what it saves of a structure, or of a text with spaces: the key file escapes what was escaped already. So these
//!   two are saved as metadata as well, which are kept as they are, and loaded from there.

use crate::panics;
use glib::translate::{Borrowed, IntoGlib, ToGlibPtr, from_glib_borrow};
use gst::glib;
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

/// The names of the properties that can be read and set, to be freed by the caller.
unsafe extern "C" fn own_property_names(preset: *mut gst::ffi::GstPreset) -> *mut *mut c_char {
    // SAFETY: GStreamer passes a valid preset, which is a GObject.
    let object: Borrowed<glib::Object> =
        unsafe { from_glib_borrow(preset as *mut glib::gobject_ffi::GObject) };
    caught(&*object, "names of presets", Vec::new, || names(&object)).to_glib_full()
}

fn names(object: &glib::Object) -> Vec<String> {
    let properties = object.list_properties();
    let names = properties.iter().filter_map(|property| {
        let is_text = SAVING.get() && TEXTS.contains(&property.name());
        let can_be_kept = property.flags().contains(glib::ParamFlags::READWRITE) && !is_text;
        let is_own = property
            .owner_type()
            .is_a(super::ParallelEnc::static_type());
        (can_be_kept && is_own).then(|| property.name().to_string())
    });
    names.collect()
}

/// The interface is that of [`super::ParallelEnc`].
fn caught<R>(
    object: &impl IsA<glib::Object>,
    what: &str,
    fallback: impl FnOnce() -> R,
    act: impl FnOnce() -> R,
) -> R {
    match object
        .upcast_ref::<glib::Object>()
        .downcast_ref::<super::ParallelEnc>()
    {
        Some(bin) => panics::caught(bin.imp(), what, fallback, act),
        None => fallback(),
    }
}

/// Both with what GStreamer passes: a valid preset, and the name of one that is kept.
unsafe fn with_default(
    preset: *mut gst::ffi::GstPreset,
    name: *const c_char,
    default: impl FnOnce(&(Act, Act)) -> Act,
    then: impl FnOnce(&gst::Preset, &str),
) -> glib::ffi::gboolean {
    let Some(default) = DEFAULT.get().map(default) else {
        return glib::ffi::GFALSE;
    };
    // SAFETY: these are the arguments that GStreamer passed for this function.
    let done = unsafe { default(preset, name) };
    if done != glib::ffi::GFALSE {
        // SAFETY: as above, and a preset's name is a valid string.
        let (preset, name) = unsafe {
            let name: Borrowed<glib::GString> = from_glib_borrow(name);
            let preset: Borrowed<gst::Preset> = from_glib_borrow(preset);
            (preset, name)
        };
        let kept = caught(
            &*preset,
            "a preset",
            || false,
            || {
                then(&preset, &name);
                true
            },
        );
        return kept.into_glib();
    }
    done
}

unsafe extern "C" fn save(
    preset: *mut gst::ffi::GstPreset,
    name: *const c_char,
) -> glib::ffi::gboolean {
    SAVING.set(true);
    // SAFETY: passed on as they came.
    let saved = unsafe { with_default(preset, name, |it| it.1, keep_texts) };
    SAVING.set(false);
    saved
}

unsafe extern "C" fn load(
    preset: *mut gst::ffi::GstPreset,
    name: *const c_char,
) -> glib::ffi::gboolean {
    // SAFETY: passed on as they came.
    unsafe { with_default(preset, name, |it| it.0, set_texts) }
}

fn keep_texts(preset: &gst::Preset, name: &str) {
    for property in TEXTS {
        let value = preset.property_value(property);
        let text = match value.get::<Option<String>>() {
            Ok(text) => text,
            Err(_) => value
                .get::<Option<gst::Structure>>()
                .ok()
                .flatten()
                .map(|structure| structure.to_string()),
        };
        // A line of a key file is one line.
        let line = text.map_or(UNSET.to_string(), |text| text.replace('\n', " "));
        let _ = preset.set_meta(name, property, Some(line.as_str()));
    }
}

fn set_texts(preset: &gst::Preset, name: &str) {
    for property in TEXTS {
        // (One that was written by hand has no such metadata.)
        let Some(text) = preset.meta(name, property) else {
            continue;
        };
        let text = Some(text.as_str()).filter(|text| *text != UNSET);
        if property == "encoder" {
            preset.set_property(property, text);
        } else {
            let structure = text.and_then(|text| text.parse::<gst::Structure>().ok());
            preset.set_property(property, structure);
        }
    }
}
