// SPDX-License-Identifier: MPL-2.0

//! What the parts of the element want of the public bin, which is above all of them and implements this.

/// The public bin, or a reference to it that doesn't keep it alive: after its end nothing is done, and nothing is there.
pub(crate) trait Host: Send + Sync {
    /// The element itself, for messages and for children.
    fn bin(&self) -> Option<gst::Bin>;

    /// Our own code panicked: tells the application, and ends the stream.
    fn panicked(&self, text: &str, what: &str);

    /// A fresh encoder is about to be opened: the application may set it up.
    fn encoder_made(&self, encoder: &gst::Element);

    /// It is known which encoder it is, or another one.
    fn encoder_known(&self);

    /// The element that stands for all encoders is a child of the bin's from now on.
    fn model_added(&self, model: &gst::Element);

    /// It isn't any more.
    fn model_removed(&self, model: &gst::Element);
}
