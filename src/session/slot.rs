// SPDX-License-Identifier: MPL-2.0

//! The bin that one session's encoders live in, one after the other.
//!
//! Its pads stay linked while encoders come and go inside it, so that the graph of the public bin never changes while
//! that bin sorts its children for a state change. What encoders post comes by here first: an encoder's error is
//! its session's affair as long as there may be another attempt.

use super::SlotOwner;
use crate::encoder::turn::SessionStatus;
use crate::host::Host;
use crate::logic::ids::SessionId;
use crate::media::queries::ask_target;
use crate::panics::{self, Part};
use crate::tasks;
use glib::translate::{IntoGlib, ToGlibPtr, try_from_glib};
use gst::prelude::*;
use gst::subclass::prelude::*;
use once_cell::sync::OnceCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

mod imp {
    use super::*;

    /// Whose it is.
    pub(super) struct Owner {
        pub(super) id: SessionId,
        pub(super) host: Arc<dyn Host>,
        pub(super) owner: Weak<dyn SlotOwner>,
        pub(super) status: Arc<SessionStatus>,
    }

    #[derive(Default)]
    pub(crate) struct Slot {
        pub(super) owner: OnceCell<Owner>,
        /// Its encoder changes its state with it.
        pub(super) moves_encoder: AtomicBool,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Slot {
        const NAME: &'static str = "GstVtParallelSlot";
        type Type = super::Slot;
        type ParentType = gst::Bin;
    }

    impl ObjectImpl for Slot {
        fn constructed(&self) {
            self.parent_constructed();
            let slot = self.obj();
            slot.set_bin_flags(gst::BinFlags::NO_RESYNC);
            let add = || {
                for (name, direction) in [
                    ("sink", gst::PadDirection::Sink),
                    ("src", gst::PadDirection::Src),
                ] {
                    let pad = gst::GhostPad::builder(direction)
                        .name(name)
                        .query_function(ask_target)
                        .build();
                    // PANIC: the element has no other pad.
                    slot.add_pad(&pad).expect("own pad");
                }
            };
            panics::reporting(self, "making a session", add);
        }
    }

    impl GstObjectImpl for Slot {}

    impl Part for Slot {
        fn host(&self) -> Option<Arc<dyn Host>> {
            Some(self.owner.get()?.host.clone())
        }
    }

    impl ElementImpl for Slot {
        /// An encoder that is broken and refuses the clock doesn't refuse it for the pipeline.
        fn set_clock(&self, clock: Option<&gst::Clock>) -> bool {
            let taken = self.parent_set_clock(clock);
            taken || !self.moves_encoder.load(Ordering::SeqCst)
        }

        /// The session's task moves the encoder, and may hang in that. GstBin would wait for it even so: it takes the state lock of
        /// children whose state is locked, too. So only the slot's own pads change here.
        fn change_state(
            &self,
            transition: gst::StateChange,
        ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
            if self.moves_encoder.load(Ordering::SeqCst) {
                return self.parent_change_state(transition);
            }
            let class = glib::Class::<gst::Element>::from_type(gst::Element::static_type());
            // PANIC: this is an element, so the class is there, and it changes states.
            let change = class
                .expect("class")
                .as_ref()
                .change_state
                .expect("function");
            // SAFETY: the instance is an element, and this is the function that GstBin's own calls with it.
            unsafe {
                try_from_glib(change(
                    self.obj().upcast_ref::<gst::Element>().to_glib_none().0,
                    transition.into_glib(),
                ))
            }
        }
    }

    impl BinImpl for Slot {
        /// Runs in the thread that posts, with the encoder's locks held: remembers or hands on, no more.
        fn handle_message(&self, message: gst::Message) {
            let is_kept = panics::caught(
                self,
                "an encoder's message",
                || false,
                || self.keeps(&message),
            );
            if !is_kept {
                self.parent_handle_message(message);
            }
        }
    }

    impl Slot {
        /// Whether the message is for nobody else, and seen to.
        fn keeps(&self, message: &gst::Message) -> bool {
            // Of an encoder with a thread of GStreamer's, or a queue beside it. It may hang as well as the session's own.
            tasks::give_thread(message);
            let Some(of) = self.owner.get() else {
                return false;
            };
            // Whoever has the session's place by now has nothing to do with it.
            if of.status.is_abandoned() {
                return true;
            }
            let Some(owner) = of.owner.upgrade().filter(|it| it.is_chunked()) else {
                return false;
            };
            match message.view() {
                gst::MessageView::Error(_) => owner.error(of.id, message),
                gst::MessageView::Qos(qos) => {
                    if let (_, _, _, Some(private), _) = qos.get() {
                        owner.skipped(of.id, private);
                    }
                }
                // One session's state and latency are not the element's.
                gst::MessageView::StateChanged(_) | gst::MessageView::Latency(_) => (),
                _ => return false,
            }
            true
        }
    }
}

glib::wrapper! {
    pub(crate) struct Slot(ObjectSubclass<imp::Slot>)
        @extends gst::Bin, gst::Element, gst::Object, @implements gst::ChildProxy;
}

impl Slot {
    pub(super) fn new(
        id: SessionId,
        host: Arc<dyn Host>,
        owner: Weak<dyn SlotOwner>,
        status: &Arc<SessionStatus>,
    ) -> Self {
        let slot: Self = glib::Object::builder()
            .property("name", format!("session{id}"))
            .build();
        let _ = slot.imp().owner.set(imp::Owner {
            id,
            host,
            owner,
            status: status.clone(),
        });
        slot
    }

    /// From now on its encoder changes its state with it.
    pub(super) fn moves_encoder(&self) {
        self.imp().moves_encoder.store(true, Ordering::SeqCst);
    }

    /// Links the encoder between the slot's pads.
    pub(super) fn connect(&self, encoder: &gst::Element) -> Option<()> {
        let mut names = ["sink", "src"].into_iter();
        names.try_for_each(|name| self.set_target(name, Some(&encoder.static_pad(name)?)))
    }

    pub(super) fn disconnect(&self) {
        for name in ["sink", "src"] {
            let _ = self.set_target(name, None);
        }
    }

    fn set_target(&self, name: &str, target: Option<&gst::Pad>) -> Option<()> {
        let ghost = self.static_pad(name)?.downcast::<gst::GhostPad>();
        ghost.ok()?.set_target(target).ok()
    }

    /// Shows a fresh encoder to the application.
    pub(super) fn announce(&self, encoder: &gst::Element) {
        if let Some(owner) = self.imp().owner.get() {
            owner.host.encoder_made(encoder);
        }
    }

    /// Posts an encoder's message that was kept back.
    pub(crate) fn post_kept(&self, message: gst::Message) {
        self.imp().parent_handle_message(message);
    }
}
