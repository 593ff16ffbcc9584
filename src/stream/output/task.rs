// SPDX-License-Identifier: MPL-2.0

//! The output's task: waits until something can leave, and sends it.

use super::writer::Outgoing;
use crate::clock;
use crate::logic::engine::{Output, Sending, Stalled};
use crate::panics::may_panic;
use crate::stream::CAT;
use crate::stream::shared::Shared;
use crate::stream::video::Video;
use gst::FlowError;
use gst::prelude::*;
use std::sync::Arc;

impl Shared {
    pub(in crate::stream) fn start_output(self: &Arc<Self>) {
        let (rest, turn) = (Self::send_no_more, Self::output_turn);
        self.start_task(&self.src, "the output's task", rest, turn);
    }

    /// The task panicked: nothing leaves any more.
    fn send_no_more(self: &Arc<Self>) {
        self.lock().refuse(FlowError::Error);
        let _ = self.src.pause_task();
    }

    /// One turn of the task.
    fn output_turn(self: &Arc<Self>) {
        match self.next_output() {
            Output::Send(sending) => self.send_packet(sending),
            Output::Events(events) => {
                let out = self.writer.lock().events(events);
                if let Err(flow) = self.send(out) {
                    self.refused(flow);
                }
            }
            Output::Fail => self.fail_at_last(),
            Output::Wait(_) => (),
            Output::Rest => {
                let _ = self.src.pause_task();
            }
        }
    }

    /// Waits for what leaves next. Woken by whatever may let a packet leave, by events, flush, stop and failure; and where frames are
    /// under way and the input stands still, by time, as the input may be waiting for what is held back here.
    fn next_output(&self) -> Output<Video> {
        let mut engine = self.lock();
        may_panic!("the output's task, locked");
        loop {
            let until = match engine.pop() {
                Output::Wait(until) => until,
                output => return output,
            };
            engine.wait_until(&self.output, until.filter(|_| !self.passes()));
            if until.is_some() {
                let stalled = engine.stalled(clock::now());
                if !matches!(stalled, Stalled::No) {
                    drop(engine);
                    self.tell_of_stall(&stalled);
                    engine = self.lock();
                }
            }
        }
    }

    fn send_packet(&self, sending: Sending<Video>) {
        let ends_early_start = sending.ends_early_start;
        let (chunk, opens) = (sending.chunk, sending.opens.is_some());
        let out = self.writer.lock().packet(sending);
        let sent = match out {
            Ok(out) => self.send(out),
            Err(differences) => {
                self.fail(gst::error_msg!(
                    gst::StreamError::Encode,
                    ("The encoder describes chunk {chunk} differently from those before it ({differences}), and the \
                         format can't say so in band; set allow-parallel=false, or a format that can (for H.264 and H.265 \
                         stream-format=byte-stream)")
                ));
                let _ = self.src.pause_task();
                return;
            }
        };
        if ends_early_start {
            self.lock().end_early_start();
        }
        if opens && self.lock().tally.vbv_underflows > 0 {
            self.warn_of_underflow();
        }
        if let Err(flow) = sent {
            self.refused(flow);
        }
    }

    fn send(&self, out: Outgoing) -> Result<(), FlowError> {
        let mut unsent = Vec::new();
        for event in out.events {
            gst::log!(CAT, obj = self.src, "Sending {event:?}");
            if event.type_() == gst::EventType::Eos {
                self.tell_of_end();
            }
            // Caps come again from the encoder.
            let lasts = event.is_sticky() && event.type_() != gst::EventType::Caps;
            if !self.src.push_event(event.clone()) && lasts && self.is_flushing() {
                unsent.push(event);
            }
        }
        let mut result = Ok(());
        for buffer in out.headers.into_iter().chain(out.packet) {
            gst::trace!(CAT, obj = self.src, "Sending {buffer:?}");
            result = self.src.push(buffer).map(drop);
        }
        if result == Err(FlowError::NotNegotiated) {
            self.tell_of_refused_caps();
        }
        if !unsent.is_empty() {
            self.lock().put_back(unsent);
        }
        result
    }

    /// A pad knows the caps that it was sent only if it has taken them.
    fn tell_of_refused_caps(&self) {
        let src = self.host.bin().and_then(|bin| bin.static_pad("src"));
        let taken = src.and_then(|src| src.peer()?.current_caps());
        if let Some(sent) = self
            .src
            .current_caps()
            .filter(|sent| taken.as_ref() != Some(sent))
        {
            self.fail_refused(&sent);
        }
    }

    fn is_flushing(&self) -> bool {
        self.src.pad_flags().contains(gst::PadFlags::FLUSHING)
    }

    /// Downstream doesn't take any more: upstream and the sessions get to know.
    fn refused(&self, flow: FlowError) {
        gst::debug!(CAT, obj = self.src, "Downstream returned {flow:?}");
        let flow = self.combined(flow, None);
        self.lock().refuse(flow);
        self.tell_of_unheard_refusal();
    }
}
