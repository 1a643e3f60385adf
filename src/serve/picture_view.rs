//! A tagged picture as pages show it.

use super::pictures::Pictures;
use super::rows::TaggedPicture;
use maud::{Markup, html};
use tagstream_core::events::BoundingBox;

/// Frames upon a picture of this size, wherever it lies in what it is shown in.
pub(crate) fn frames((width, height): (u32, u32), boxes: &[BoundingBox]) -> Markup {
    let (width, height) = (width as f32, height as f32);
    html! {
        svg viewBox={ "0 0 " (width) " " (height) } aria-hidden="true" {
            @for b in boxes {
                rect x=(b.x * width) y=(b.y * height) width=(b.w * width) height=(b.h * height) {}
            }
        }
    }
}

/// A picture with its tags and where they were seen.
pub(crate) fn figure(picture: &TaggedPicture, pictures: &Pictures) -> Markup {
    let name = picture
        .image_id
        .rsplit('/')
        .next()
        .unwrap_or(&picture.image_id);
    html! {
        figure {
            span.shot {
                img loading="lazy" alt=(picture.image_id) src=(pictures.path(&picture.uri));
                svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true" {
                    @for tag in &picture.tags {
                        @for b in tag.shown_boxes() {
                            rect x=(b.x) y=(b.y) width=(b.w) height=(b.h) {}
                        }
                    }
                }
            }
            figcaption {
                span title=(picture.image_id) { (name) }
                ul.tags {
                    @for tag in &picture.tags {
                        li.chip { (tag.shown()) " " span.soft { (format!("{:.2}", tag.score)) } }
                    }
                    @if picture.tags.is_empty() { li.soft { "no tag" } }
                }
            }
        }
    }
}
