// SPDX-License-Identifier: MPL-2.0

//! What VideoToolbox recommends of parallel compression sessions, for GStreamer's elements around it (`vtenc_…`), which don't pass it on.
//!
//! A compression session of the element's codec, with pictures of 1080p, is made for the question. Its functions and keys are looked up
//! when it is asked, so that the plugin loads where there are none: the keys are there from macOS 14 on. The tests ask functions that are
//! made up; those of the system were type-checked, and never run.

use super::hints::Recommended;
use std::ffi::c_void;
use std::ptr::{null, null_mut};

/// Any object of Core Foundation.
type Object = *const c_void;
type TypeId = usize;

/// `kCFNumberSInt64Type`.
const NUMBER_OF_64_BITS: isize = 4;

/// `kCMTimeFlags_Valid`.
const VALID: u32 = 1;

/// `CMTime`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Time {
    value: i64,
    timescale: i32,
    flags: u32,
    epoch: i64,
}

/// `VTCompressionSessionCreate`.
type Create = unsafe extern "C" fn(
    Object,
    i32,
    i32,
    u32,
    Object,
    Object,
    Object,
    Object,
    *mut c_void,
    *mut Object,
) -> i32;

/// What is called.
struct Functions {
    create: Create,
    /// `VTCompressionSessionInvalidate`
    invalidate: unsafe extern "C" fn(Object),
    /// `VTSessionCopyProperty`
    copy_property: unsafe extern "C" fn(Object, Object, Object, *mut Object) -> i32,
    /// `CMTimeMakeFromDictionary`
    time: unsafe extern "C" fn(Object) -> Time,
    /// `CFRelease`
    release: unsafe extern "C" fn(Object),
    /// `CFGetTypeID`
    type_of: unsafe extern "C" fn(Object) -> TypeId,
    /// `CFNumberGetTypeID`
    number_type: unsafe extern "C" fn() -> TypeId,
    /// `CFDictionaryGetTypeID`
    dictionary_type: unsafe extern "C" fn() -> TypeId,
    /// `CFNumberGetValue`
    number: unsafe extern "C" fn(Object, isize, *mut c_void) -> u8,
    keys: Keys,
}

/// `kVTCompressionPropertyKey_Recommended…`; null where the system has none.
struct Keys {
    limit: Object,
    minimum_frames: Object,
    minimum_duration: Object,
}

/// What is released when it is dropped.
struct Owned<'a> {
    functions: &'a Functions,
    object: Object,
    is_session: bool,
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        // SAFETY: the object isn't null, and this was the only reference to it that is ours.
        unsafe {
            if self.is_session {
                (self.functions.invalidate)(self.object);
            }
            (self.functions.release)(self.object);
        }
    }
}

impl Functions {
    fn owned(&self, status: i32, object: Object, is_session: bool) -> Option<Owned<'_>> {
        let functions = self;
        let is_there = status == 0 && !object.is_null();
        // (What is dropped is released.)
        is_there.then(|| Owned {
            functions,
            object,
            is_session,
        })
    }

    fn session(&self, codec: u32) -> Option<Owned<'_>> {
        let mut session = null();
        // SAFETY: what may be null is (the specification, attributes, allocators, callback and its argument), and `session` outlives the
        // call.
        let status = unsafe {
            (self.create)(
                null(),
                1920,
                1080,
                codec,
                null(),
                null(),
                null(),
                null(),
                null_mut(),
                &raw mut session,
            )
        };
        self.owned(status, session, true)
    }

    fn property(&self, session: &Owned<'_>, key: Object) -> Option<Owned<'_>> {
        if key.is_null() {
            return None;
        }
        let mut value = null();
        // SAFETY: the session is open, the key is one of its library's, and `value` outlives the call.
        let status = unsafe { (self.copy_property)(session.object, key, null(), &raw mut value) };
        self.owned(status, value, false)
    }

    /// 0: it isn't there, or none.
    fn number_of(&self, session: &Owned<'_>, key: Object) -> u64 {
        let Some(value) = self.property(session, key) else {
            return 0;
        };
        let mut number = 0_i64;
        // SAFETY: its type is asked before it is read as one, and `number` has 64 bits and outlives the call.
        let is_read = unsafe {
            (self.type_of)(value.object) == (self.number_type)()
                && (self.number)(value.object, NUMBER_OF_64_BITS, (&raw mut number).cast()) != 0
        };
        match is_read {
            true => u64::try_from(number).unwrap_or(0),
            false => 0,
        }
    }

    /// In nanoseconds; 0 as above.
    fn duration_of(&self, session: &Owned<'_>, key: Object) -> u64 {
        let Some(value) = self.property(session, key) else {
            return 0;
        };
        // SAFETY: its type is asked before it is read as one.
        let time = unsafe {
            match (self.type_of)(value.object) == (self.dictionary_type)() {
                true => (self.time)(value.object),
                false => return 0,
            }
        };
        let (value, scale) = (i128::from(time.value), i128::from(time.timescale));
        if time.flags & VALID == 0 || scale <= 0 {
            return 0;
        }
        u64::try_from(value * 1_000_000_000 / scale).unwrap_or(0)
    }

    fn recommended(&self, codec: u32) -> Recommended {
        let Some(session) = self.session(codec) else {
            return Recommended::default();
        };
        let sessions = self.number_of(&session, self.keys.limit);
        Recommended {
            sessions: u32::try_from(sessions).unwrap_or(u32::MAX),
            minimum_frames: self.number_of(&session, self.keys.minimum_frames),
            minimum_duration: self.duration_of(&session, self.keys.minimum_duration),
        }
    }
}

/// What the element of this name encodes: `CMVideoCodecType`.
fn codec(factory: &str) -> Option<u32> {
    let codec = match factory.strip_prefix("vtenc_")? {
        "h264" | "h264_hw" => b"avc1",
        "h265" | "h265_hw" => b"hvc1",
        "h265a" | "h265a_hw" => b"muxa",
        "prores" => b"apcn",
        _ => return None,
    };
    Some(u32::from_be_bytes(*codec))
}

/// What is recommended for the element of this name; `None`: it isn't VideoToolbox's, or nobody can be asked.
#[cfg(target_os = "macos")]
pub(super) fn recommended(factory: &str) -> Option<Recommended> {
    let codec = codec(factory)?;
    Some(system::functions()?.recommended(codec))
}

#[cfg(target_os = "macos")]
mod system {
    use super::{Functions, Keys, Object};
    use libloading::{Library, Symbol};
    use std::ptr::null;

    fn library(framework: &str) -> Option<&'static Library> {
        let path = format!("/System/Library/Frameworks/{framework}.framework/{framework}");
        // SAFETY: a framework of the system, which may be loaded at any time.
        let library = unsafe { Library::new(path) }.ok()?;
        // It has threads of its own: it stays.
        Some(Box::leak(Box::new(library)))
    }

    /// A function of the library, as its header declares it.
    fn function<T: Copy + 'static>(library: &'static Library, name: &str) -> Option<T> {
        // SAFETY: `T` is the type that the header has under this name.
        let symbol: Symbol<'static, T> = unsafe { library.get(name.as_bytes()) }.ok()?;
        Some(*symbol)
    }

    /// A constant of the library that is an object; null where it has none of that name.
    fn key(library: &'static Library, name: &str) -> Object {
        let name = format!("kVTCompressionPropertyKey_Recommended{name}");
        let key: Option<*const Object> = function(library, &name);
        // SAFETY: a constant of a library that stays.
        key.map_or(null(), |key| unsafe { *key })
    }

    pub(super) fn functions() -> Option<Functions> {
        let toolbox = library("VideoToolbox")?;
        let media = library("CoreMedia")?;
        let foundation = library("CoreFoundation")?;
        Some(Functions {
            create: function(toolbox, "VTCompressionSessionCreate")?,
            invalidate: function(toolbox, "VTCompressionSessionInvalidate")?,
            copy_property: function(toolbox, "VTSessionCopyProperty")?,
            time: function(media, "CMTimeMakeFromDictionary")?,
            release: function(foundation, "CFRelease")?,
            type_of: function(foundation, "CFGetTypeID")?,
            number_type: function(foundation, "CFNumberGetTypeID")?,
            dictionary_type: function(foundation, "CFDictionaryGetTypeID")?,
            number: function(foundation, "CFNumberGetValue")?,
            keys: Keys {
                limit: key(toolbox, "ParallelizationLimit"),
                minimum_frames: key(toolbox, "ParallelizedSubdivisionMinimumFrameCount"),
                minimum_duration: key(toolbox, "ParallelizedSubdivisionMinimumDuration"),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// What there is instead of VideoToolbox, for one thread.
    #[derive(Default)]
    struct Fake {
        /// Of the codec; none where sessions can't be made of it.
        codecs: Vec<u32>,
        limit: Option<Value>,
        minimum_frames: Option<Value>,
        minimum_duration: Option<Value>,
        /// Objects that were made and not released.
        alive: Vec<usize>,
        made: usize,
        invalidated: usize,
    }

    #[derive(Clone, Copy)]
    enum Value {
        Number(i64),
        Time(Time),
        Text,
    }

    thread_local! {
        static FAKE: RefCell<Fake> = RefCell::default();
    }

    fn with<R>(of: impl FnOnce(&mut Fake) -> R) -> R {
        FAKE.with_borrow_mut(of)
    }

    /// Objects are numbers: of sessions from 1 on, of values from 100 on.
    fn object(number: usize) -> Object {
        std::ptr::without_provenance(number)
    }

    fn value(object: Object) -> Option<Value> {
        with(|fake| {
            assert!(fake.alive.contains(&object.addr()), "it was released");
            match object.addr() {
                100 => fake.limit,
                101 => fake.minimum_frames,
                102 => fake.minimum_duration,
                _ => None,
            }
        })
    }

    unsafe extern "C" fn create(
        _allocator: Object,
        width: i32,
        height: i32,
        codec: u32,
        _specification: Object,
        _attributes: Object,
        _data_allocator: Object,
        _callback: Object,
        _argument: *mut c_void,
        session: *mut Object,
    ) -> i32 {
        assert_eq!((width, height), (1920, 1080));
        with(|fake| {
            if !fake.codecs.contains(&codec) {
                // kVTCouldNotFindVideoEncoderErr
                return -12908;
            }
            fake.made += 1;
            fake.alive.push(fake.made);
            // SAFETY: as the caller promises.
            unsafe { *session = object(fake.made) };
            0
        })
    }

    unsafe extern "C" fn invalidate(session: Object) {
        with(|fake| {
            assert!(fake.alive.contains(&session.addr()), "it was released");
            fake.invalidated += 1;
        });
    }

    unsafe extern "C" fn copy_property(
        session: Object,
        key: Object,
        _allocator: Object,
        out: *mut Object,
    ) -> i32 {
        with(|fake| {
            assert!(fake.alive.contains(&session.addr()), "it was released");
            let number = key.addr() + 90;
            let has = [fake.limit, fake.minimum_frames, fake.minimum_duration];
            if has[number - 100].is_none() {
                // kVTPropertyNotSupportedErr
                return -12900;
            }
            fake.alive.push(number);
            // SAFETY: as the caller promises.
            unsafe { *out = object(number) };
            0
        })
    }

    unsafe extern "C" fn time(dictionary: Object) -> Time {
        match value(dictionary) {
            Some(Value::Time(time)) => time,
            _ => panic!("no dictionary"),
        }
    }

    unsafe extern "C" fn release(of: Object) {
        with(|fake| {
            let at = fake.alive.iter().position(|it| *it == of.addr());
            fake.alive.remove(at.expect("released twice"));
        });
    }

    unsafe extern "C" fn type_of(of: Object) -> TypeId {
        match value(of) {
            Some(Value::Number(_)) => 1,
            Some(Value::Time(_)) => 2,
            _ => 3,
        }
    }

    unsafe extern "C" fn number_type() -> TypeId {
        1
    }

    unsafe extern "C" fn dictionary_type() -> TypeId {
        2
    }

    unsafe extern "C" fn number(of: Object, kind: isize, out: *mut c_void) -> u8 {
        assert_eq!(kind, NUMBER_OF_64_BITS);
        let Some(Value::Number(number)) = value(of) else {
            panic!("no number")
        };
        // SAFETY: as the caller promises.
        unsafe { *out.cast::<i64>() = number };
        1
    }

    /// Of macOS 14, or, without keys, of one before.
    fn functions(has_keys: bool) -> Functions {
        let key = |number| match has_keys {
            true => object(number),
            false => null(),
        };
        Functions {
            create,
            invalidate,
            copy_property,
            time,
            release,
            type_of,
            number_type,
            dictionary_type,
            number,
            keys: Keys {
                limit: key(10),
                minimum_frames: key(11),
                minimum_duration: key(12),
            },
        }
    }

    fn asked(fake: Fake, factory: &str, has_keys: bool) -> Recommended {
        with(|it| *it = fake);
        let recommended = functions(has_keys).recommended(codec(factory).unwrap());
        with(|fake| {
            assert_eq!(fake.alive, Vec::<usize>::new(), "not released");
            assert_eq!(fake.invalidated, fake.made);
        });
        recommended
    }

    fn of_h264() -> Fake {
        Fake {
            codecs: vec![u32::from_be_bytes(*b"avc1")],
            ..Fake::default()
        }
    }

    fn seconds(value: i64, timescale: i32) -> Option<Value> {
        Some(Value::Time(Time {
            value,
            timescale,
            flags: VALID,
            epoch: 0,
        }))
    }

    #[test]
    fn what_a_session_says_is_what_is_recommended() {
        let fake = Fake {
            limit: Some(Value::Number(4)),
            minimum_frames: Some(Value::Number(30)),
            minimum_duration: seconds(3, 2),
            ..of_h264()
        };
        let expected = Recommended {
            sessions: 4,
            minimum_frames: 30,
            minimum_duration: 1_500_000_000,
        };
        assert_eq!(asked(fake, "vtenc_h264_hw", true), expected);
    }

    #[test]
    fn what_it_does_not_say_is_nothing() {
        let none = Recommended::default();
        assert_eq!(asked(of_h264(), "vtenc_h264", true), none);
        // No encoder of that kind.
        assert_eq!(asked(of_h264(), "vtenc_h265_hw", true), none);
        let says = || Fake {
            limit: Some(Value::Number(4)),
            minimum_duration: seconds(1, 1),
            ..of_h264()
        };
        // Before macOS 14.
        assert_eq!(asked(says(), "vtenc_h264", false), none);
        for nonsense in [
            Fake {
                limit: Some(Value::Text),
                minimum_frames: Some(Value::Number(-1)),
                minimum_duration: Some(Value::Number(7)),
                ..of_h264()
            },
            Fake {
                minimum_duration: seconds(1, 0),
                ..of_h264()
            },
            Fake {
                minimum_duration: seconds(-1, 1),
                ..of_h264()
            },
            Fake {
                minimum_duration: Some(Value::Time(Time {
                    value: 1,
                    timescale: 1,
                    flags: 0,
                    epoch: 0,
                })),
                ..of_h264()
            },
        ] {
            assert_eq!(asked(nonsense, "vtenc_h264", true), none);
        }
        let part = asked(says(), "vtenc_h264", true);
        assert_eq!((part.sessions, part.minimum_frames), (4, 0));
    }

    #[test]
    fn only_its_own_elements_are_asked_about() {
        for other in ["x264enc", "vtdec", "vtenc_", "vtenc_vp9"] {
            assert_eq!(codec(other), None, "{other}");
        }
        assert_eq!(codec("vtenc_prores"), Some(0x6170_636e));
    }
}
