// SPDX-License-Identifier: MPL-2.0

//! The two private elements, the distributor and the aggregator. They have nothing but pads, and what GStreamer calls these for is done
//! on what is [`Shared`].

use super::CAT;
use super::shared::Shared;
use crate::media::caps::pad_template;
use crate::panics;
use crate::tasks;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst::{FlowError, FlowSuccess};
use once_cell::sync::Lazy;
use std::sync::{Arc, Weak};

mod imp {
    use super::*;

    #[derive(Default)]
    pub(crate) struct End;

    #[glib::object_subclass]
    impl ObjectSubclass for End {
        const NAME: &'static str = "GstVtParallelEnd";
        type Type = super::End;
        type ParentType = gst::Element;
    }

    impl ObjectImpl for End {}
    impl GstObjectImpl for End {}

    impl ElementImpl for End {
        /// Who looks through the elements of a pipeline takes it for granted that they have some.
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
                gst::subclass::ElementMetadata::new(
                    "Parallel encoding distributor or aggregator",
                    "Generic/Video",
                    "Cuts a video into chunks for several encoders, or joins their packets into one stream",
                    env!("CARGO_PKG_AUTHORS"),
                )
            });
            Some(&METADATA)
        }
    }
}

glib::wrapper! {
    /// What is before all sessions, or behind them.
    pub(crate) struct End(ObjectSubclass<imp::End>) @extends gst::Element, gst::Object;
}

/// An element with a pad that was made for it.
pub(super) fn element(name: &str, pad: &gst::Pad) -> Result<gst::Element, glib::BoolError> {
    let element: End = glib::Object::builder().property("name", name).build();
    element.add_pad(pad)?;
    Ok(element.upcast())
}

/// A pad of one of the elements, while it is made. `what`: what is done on it, for whoever reads of a panic.
pub(super) struct PadBuilder {
    shared: Weak<Shared>,
    builder: gst::PadBuilder<gst::Pad>,
}

impl PadBuilder {
    pub(super) fn new(shared: &Weak<Shared>, template: &str, name: &str, caps: &gst::Caps) -> Self {
        let template = pad_template(template, caps);
        Self {
            shared: shared.clone(),
            builder: gst::Pad::builder_from_template(&template).name(name),
        }
    }

    pub(super) fn chain(
        mut self,
        what: &'static str,
        act: impl Fn(&Arc<Shared>, gst::Buffer) -> Result<FlowSuccess, FlowError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let weak = self.shared.clone();
        self.builder = self.builder.chain_function(move |_, _, buffer| {
            let failed = || Err(FlowError::Error);
            guarded(&weak, what, failed, |shared| act(shared, buffer))
        });
        self
    }

    pub(super) fn event(
        mut self,
        what: &'static str,
        act: impl Fn(&Arc<Shared>, gst::Event) -> bool + Send + Sync + 'static,
    ) -> Self {
        let weak = self.shared.clone();
        self.builder = self.builder.event_function(move |_, _, event| {
            guarded(&weak, what, || false, |shared| act(shared, event))
        });
        self
    }

    /// `act` answers the query; `None`: as any pad does.
    pub(super) fn query(
        mut self,
        what: &'static str,
        act: impl Fn(&Arc<Shared>, &mut gst::QueryRef) -> Option<bool> + Send + Sync + 'static,
    ) -> Self {
        let weak = self.shared.clone();
        self.builder = self.builder.query_function(move |pad, parent, query| {
            let answer = |shared: &Arc<Shared>| {
                let answered = act(shared, query);
                answered.unwrap_or_else(|| gst::Pad::query_default(pad, parent, query))
            };
            guarded(&weak, what, || false, answer)
        });
        self
    }

    /// The pad has a task, which `start` starts.
    pub(super) fn task(
        mut self,
        what: &'static str,
        start: impl Fn(&Arc<Shared>, &gst::Pad) + Send + Sync + 'static,
    ) -> Self {
        let weak = self.shared.clone();
        let activate = move |pad: &gst::Pad, parent: Option<&_>, mode, active| {
            if parent.is_none() {
                // It is added to a running element; its task starts when it is linked.
                return Ok(());
            }
            if mode != gst::PadMode::Push {
                return Err(gst::loggable_error!(CAT, "Only push mode is supported"));
            }
            if active {
                let panicked = || Err(gst::loggable_error!(CAT, "Panicked while starting"));
                return guarded(&weak, what, panicked, |shared| {
                    start(shared, pad);
                    Ok(())
                });
            }
            // If that panics, the stream has failed, so what the task waits for returns all the same; and what is stopped may not fail.
            guarded(&weak, what, || (), |shared| shared.stop());
            let stopped = pad.stop_task();
            stopped.map_err(|error| gst::loggable_error!(CAT, "Task can't be stopped: {error}"))
        };
        self.builder = self.builder.activatemode_function(activate);
        self
    }

    pub(super) fn build(self) -> gst::Pad {
        self.builder.build()
    }
}

/// Does `act` for a pad, as long as there is something to do it on.
fn guarded<R>(
    weak: &Weak<Shared>,
    what: &str,
    fallback: impl Fn() -> R,
    act: impl FnOnce(&Arc<Shared>) -> R,
) -> R {
    match weak.upgrade() {
        Some(shared) => panics::caught(&shared.host, what, &fallback, || act(&shared)),
        None => fallback(),
    }
}

impl Shared {
    /// Starts the task of a pad that is active, which does `turn` again and again. If that panics, it does `rest`. (Not left to the pad,
    /// which may have left its element.)
    pub(super) fn start_task(
        self: &Arc<Self>,
        pad: &gst::Pad,
        what: &'static str,
        rest: impl Fn(&Arc<Self>) + Send + 'static,
        turn: impl Fn(&Arc<Self>) + Send + 'static,
    ) {
        if !pad.is_active() {
            return;
        }
        let weak = Arc::downgrade(self);
        let started = tasks::start(pad, move || {
            if let Some(shared) = weak.upgrade() {
                panics::caught(&shared.host, what, || rest(&shared), || turn(&shared));
            }
        });
        if let Err(error) = started {
            gst::error!(CAT, obj = pad, "The task can't be started: {error}");
        }
    }
}
