//! Heat: where in a picture the model that serves sees a category.
//!
//! Boxes come with the predictions; heat does not, it would be larger than the rest of a row. So it
//! is made when it is looked at, by the model over HTTP (`[inference]`), and there is none where
//! that is off.

use super::api::{ApiError, Predictor, Saliency};
use super::pictures::Pictures;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use image::imageops::{FilterType, overlay, resize};
use image::{ImageBuffer, ImageFormat, Luma, Rgba, RgbaImage};
use serde::Deserialize;
use std::io::Cursor;
use std::sync::Arc;
use tagstream_model::saliency::{levels, too_coarse};
use url::form_urlencoded;

/// Longest side of a picture of heat, pixels; a browser enlarges it.
const SIDE: f32 = 240.0;
const COLOUR: [u8; 3] = [0xff, 0x5a, 0x1f];
/// How opaque the hottest place is, of 255.
const OPAQUE: f32 = 170.0;

/// Makes heat, where there is a model.
pub(crate) struct Heat {
    predictor: Option<Arc<Predictor>>,
    pictures: Arc<Pictures>,
}

impl Heat {
    /// Heat of these pictures by this model, if there is one.
    pub(crate) fn new(predictor: Option<Arc<Predictor>>, pictures: Arc<Pictures>) -> Arc<Self> {
        Arc::new(Heat {
            predictor,
            pictures,
        })
    }

    /// Where a page finds the heat of `category` on the picture at `uri`; `None` without a model.
    pub(crate) fn path(&self, uri: &str, category: &str) -> Option<String> {
        self.predictor.as_ref()?;
        let picture = self.pictures.path(uri);
        let key = picture.rsplit('/').next().unwrap_or_default();
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("category", category)
            .finish();
        Some(format!("/heat/{key}?{query}"))
    }

    /// Whether the model's grid is too coarse for boxes, so that heat is all there is.
    pub(crate) fn is_all_there_is(&self) -> bool {
        let engine = self.predictor.as_ref().and_then(|p| p.engine().ok());
        engine.is_some_and(|engine| {
            let model = engine.model();
            too_coarse(model.shape.locations, model.manifest.dims.grid_width)
        })
    }

    async fn make(&self, key: &str, category: &str) -> Result<Vec<u8>, ApiError> {
        let (Some(predictor), Some(uri)) = (&self.predictor, self.pictures.address(key)) else {
            return Err(ApiError::NotReady("there is no such picture".into()));
        };
        let _place = predictor.place()?;
        let saliency = predictor.saliency(&uri, category).await?;
        let drawn = draw(&saliency);
        drawn.map_err(|error| ApiError::Internal(error.to_string()))
    }
}

/// `/heat/{key}?category=NAME`.
pub(crate) fn routes(heat: Arc<Heat>) -> Router {
    Router::new()
        .route("/heat/{key}", get(show))
        .with_state(heat)
}

/// Stands over a picture of which no heat can be had.
const NONE: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 320 240\">\
    <rect x=\"90\" y=\"206\" width=\"140\" height=\"26\" rx=\"6\" fill=\"#000a\"/>\
    <text x=\"160\" y=\"224\" fill=\"#fff\" font-family=\"sans-serif\" font-size=\"14\" \
    text-anchor=\"middle\">no heat for this</text></svg>";

#[derive(Debug, Deserialize)]
struct Asked {
    category: String,
}

async fn show(
    State(heat): State<Arc<Heat>>,
    Path(key): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    match heat.make(&key, &asked.category).await {
        Ok(png) => {
            // Not for long: another version may serve soon.
            let kept = "private, max-age=300";
            ([(CONTENT_TYPE, "image/png"), (CACHE_CONTROL, kept)], png).into_response()
        }
        Err(error) => {
            tracing::debug!(%error, "no heat can be shown");
            let kept = "private, max-age=10";
            let kind = "image/svg+xml";
            ([(CONTENT_TYPE, kind), (CACHE_CONTROL, kept)], NONE).into_response()
        }
    }
}

/// A picture of the upright image's form that is transparent where nothing is seen.
fn draw(of: &Saliency) -> Result<Vec<u8>, image::ImageError> {
    let columns = of.columns as u32;
    let grid: ImageBuffer<Luma<f32>, _> =
        ImageBuffer::from_raw(columns, of.map.len() as u32 / columns, levels(&of.map))
            .expect("a map has its rows of columns");
    let (width, height) = (of.size.width as f32, of.size.height as f32);
    let scale = (SIDE / width.max(height)).min(1.0);
    let pixels = |length: f32| ((length * scale).round() as u32).max(1);
    let seen = of.seen;
    let (w, h) = (pixels(seen.w * width), pixels(seen.h * height));
    let smooth = resize(&grid, w, h, FilterType::Triangle);
    let [r, g, b] = COLOUR;
    let hot = RgbaImage::from_fn(w, h, |x, y| {
        let level = smooth.get_pixel(x, y).0[0].clamp(0.0, 1.0);
        Rgba([r, g, b, (OPAQUE * level).round() as u8])
    });
    let mut whole = RgbaImage::new(pixels(width), pixels(height));
    let (x, y) = (seen.x * width * scale, seen.y * height * scale);
    overlay(&mut whole, &hot, x.round() as i64, y.round() as i64);
    let mut png = Cursor::new(Vec::new());
    whole.write_to(&mut png, ImageFormat::Png)?;
    Ok(png.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagstream_core::events::BoundingBox;
    use tagstream_image::decode::ImageSize;

    #[test]
    fn heat_lies_where_the_map_says_in_the_part_that_the_model_sees() {
        let mut map = vec![0.01; 16];
        map[3] = 1.0;
        let seen = BoundingBox {
            x: 0.25,
            y: 0.0,
            w: 0.5,
            h: 1.0,
        };
        let png = draw(&Saliency {
            map,
            columns: 4,
            seen,
            size: ImageSize {
                width: 1_000,
                height: 500,
            },
        })
        .unwrap();
        let drawn = image::load_from_memory(&png).unwrap().to_rgba8();
        assert_eq!(drawn.dimensions(), (240, 120));
        // The upper right cell of the middle square.
        assert!(
            drawn.get_pixel(172, 10).0[3] > 150,
            "{:?}",
            drawn.get_pixel(172, 10)
        );
        for (x, y) in [(10, 10), (230, 10), (70, 10), (172, 110)] {
            assert_eq!(drawn.get_pixel(x, y).0[3], 0, "{x} {y}");
        }
    }

    #[test]
    fn without_a_model_there_is_no_path() {
        let fetch = tagstream_core::config::FetchConfig::default();
        let pictures = Pictures::new(&fetch, &Default::default(), &Default::default()).unwrap();
        let heat = Heat::new(None, Arc::new(pictures));
        assert_eq!(heat.path("s3://b/a.jpg", "dog"), None);
        assert!(!heat.is_all_there_is());
    }
}
