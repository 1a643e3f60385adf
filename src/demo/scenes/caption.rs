//! Captions: one sentence that names every object.

use super::{Object, Style};

/// "a photo of a large red car, a tree and a small blue cup", biggest object first.
pub(super) fn caption(objects: &[Object], style: Style) -> String {
    let mut order: Vec<&Object> = objects.iter().collect();
    order.sort_by(|a, b| b.radius.total_cmp(&a.radius));
    let mut caption = String::from("a photo of ");
    for (i, object) in order.iter().enumerate() {
        if i > 0 {
            caption.push_str(if i + 1 == order.len() { " and " } else { ", " });
        }
        let size = match object.radius {
            radius if radius < 0.15 => Some("small"),
            radius if radius > 0.23 => Some("large"),
            _ => None,
        };
        let colour = style.has_colour().then_some(object.colour);
        let words: Vec<&str> = size
            .into_iter()
            .chain(colour)
            .chain([object.category])
            .collect();
        caption.push_str(if words[0].starts_with(['a', 'e', 'i', 'o', 'u']) {
            "an "
        } else {
            "a "
        });
        caption.push_str(&words.join(" "));
    }
    caption
}
