use super::*;
use std::collections::BTreeSet;

fn scenes(count: u64) -> impl Iterator<Item = Scene> {
    Style::ALL
        .into_iter()
        .flat_map(move |style| (0..count).map(move |index| Scene::draw(11, index, style, 96)))
}

#[test]
fn a_scene_depends_on_its_seed_index_and_style_only() {
    for style in Style::ALL {
        let scene = Scene::draw(5, 9, style, 96);
        // Others drawn in between change nothing.
        let _other = Scene::draw(5, 10, style, 96);
        assert_eq!(scene, Scene::draw(5, 9, style, 96));
        assert_eq!(scene.jpeg().unwrap(), scene.jpeg().unwrap());
        assert_ne!(scene.rgb, Scene::draw(5, 10, style, 96).rgb);
        assert_ne!(scene.rgb, Scene::draw(6, 9, style, 96).rgb);
    }
}

#[test]
fn every_object_contrasts_and_is_visible() {
    let mut counts = BTreeSet::new();
    for scene in scenes(150) {
        counts.insert(scene.objects.len());
        for object in &scene.objects {
            assert!(
                object.contrast >= MIN_CONTRAST,
                "{}: {object:?}",
                scene.image_id
            );
            assert!(
                (MIN_VISIBLE..=1.0).contains(&object.visible),
                "{}: {object:?}",
                scene.image_id
            );
        }
    }
    assert_eq!(counts, BTreeSet::from([1, 2, 3, 4, 5, 6]));
}

#[test]
fn grey_scenes_have_no_colour() {
    for index in 0..30 {
        let scene = Scene::draw(4, index, Style::Grey, 96);
        let grey = |pixel: &[u8]| pixel[0] == pixel[1] && pixel[1] == pixel[2];
        assert!(scene.rgb.chunks_exact(3).all(grey), "{}", scene.image_id);
    }
}

#[test]
fn boxes_lie_in_the_picture_and_have_an_extent() {
    for scene in scenes(100) {
        for object in &scene.objects {
            let BoundingBox { x, y, w, h } = object.bounding_box;
            assert!(x >= 0.0 && y >= 0.0 && w > 0.0 && h > 0.0, "{object:?}");
            assert!(x + w <= 1.0 + 1e-6 && y + h <= 1.0 + 1e-6, "{object:?}");
        }
    }
}

/// The pixels in which a scene's canvas differs from its background alone are those inside the
/// boxes.
#[test]
fn boxes_are_tight_around_what_was_drawn() {
    let mut seen = 0;
    for index in 0..200 {
        let mut painting = Painting::new(23, index, Style::Plain, 96);
        let before = painting.canvas.clone();
        painting.fill();
        if painting.placed.len() != 1 {
            continue;
        }
        seen += 1;
        let (mut left, mut top, mut right, mut bottom) = (96, 96, 0, 0);
        for (at, (a, b)) in before
            .pixels()
            .iter()
            .zip(painting.canvas.pixels())
            .enumerate()
        {
            if a != b {
                let (x, y) = (at % 96, at / 96);
                (left, right) = (left.min(x), right.max(x + 1));
                (top, bottom) = (top.min(y), bottom.max(y + 1));
            }
        }
        let BoundingBox { x, y, w, h } = painting.boxes()[0];
        let pixels = [x * 96.0, y * 96.0, (x + w) * 96.0, (y + h) * 96.0];
        // A pixel that is covered by less than a half changes, but is not counted as the object's.
        for (got, drawn) in pixels.into_iter().zip([left, top, right, bottom]) {
            assert!(
                (got - drawn as f32).abs() <= 2.0,
                "scene {index}: {pixels:?}"
            );
        }
    }
    assert!(seen >= 20, "{seen} scenes with one object");
}

#[test]
fn every_category_can_be_drawn_and_is_drawn() {
    let drawn: BTreeSet<_> = (0..600)
        .flat_map(|index| Scene::draw(1, index, Style::Plain, 64).objects)
        .map(|object| object.category)
        .collect();
    assert_eq!(drawn.into_iter().collect::<Vec<_>>(), categories());
}

#[test]
fn the_caption_names_every_object() {
    for scene in scenes(50) {
        assert!(
            scene.caption.starts_with("a photo of a"),
            "{}",
            scene.caption
        );
        for object in &scene.objects {
            assert!(scene.caption.contains(object.category), "{}", scene.caption);
        }
    }
}

#[test]
fn the_jpeg_holds_the_picture() {
    let scene = Scene::draw(2, 4, Style::Plain, 128);
    let decoded =
        turbojpeg::decompress(&scene.jpeg().unwrap(), turbojpeg::PixelFormat::RGB).unwrap();
    assert_eq!((decoded.width, decoded.height), (128, 128));
    let error: u64 = decoded
        .pixels
        .iter()
        .zip(&scene.rgb)
        .map(|(a, b)| u64::from(a.abs_diff(*b)))
        .sum();
    assert!(error / (scene.rgb.len() as u64) < 12, "mean error {error}");
}
