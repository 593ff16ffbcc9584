// SPDX-License-Identifier: MPL-2.0

//! What the parts of the element want of the bin that they are in.

/// The bin, for its parts. They don't keep it: nothing is done once it is gone.
pub(crate) trait Host: Send + Sync {
    /// What messages are posted by, and what slots are put into.
    fn bin(&self) -> Option<gst::Bin>;

    /// Posts this as an error of the bin.
    fn post_error(&self, error: gst::ErrorMessage);

    /// Our own code panicked in `what`: tells the application, and ends the stream.
    fn panicked(&self, text: &str, what: &str);

    /// A fresh encoder was made and isn't open: the application may set it up.
    fn encoder_made(&self, encoder: &gst::Element);

    /// The encoder was chosen by what downstream accepts. An error if it can't be set as the application wants it.
    fn encoder_chosen(&self, description: &str) -> Result<(), gst::ErrorMessage>;

    /// It is known which encoder it is.
    fn encoder_known(&self);

    /// No installed encoder makes what downstream accepts: tells the application which one would be needed.
    fn encoder_missing(&self, accepted: &gst::Caps);
}
