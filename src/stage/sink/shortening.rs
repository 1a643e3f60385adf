//! Messages that their topic has no room for, made smaller.

use super::outgoing::{MessageForm, Outgoing};
use super::{dead_letter_topic, predictions_topic};

/// The form of `message` that leaves out least among those that `fits`; `None` if not even the
/// least one does.
pub(super) fn shortened(message: &Outgoing, fits: &dyn Fn(&Outgoing) -> bool) -> Option<Outgoing> {
    match message.form {
        _ if fits(message) => Some(message.clone()),
        MessageForm::Whole => None,
        MessageForm::Prediction => predictions_topic::shortened(message, fits),
        MessageForm::DeadLetter => dead_letter_topic::shortened(message, fits),
    }
}
