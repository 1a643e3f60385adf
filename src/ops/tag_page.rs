//! A self-contained page of tagged pictures: tags, scores, boxes and saliency heat maps. Nothing is
//! loaded from anywhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write as _;
use tagstream_core::events::BoundingBox;

/// Longest side of a picture on the page, pixels.
const SIDE: u32 = 420;
/// Width that a card offers, pixels.
const CARD: u32 = 280;
const JPEG_QUALITY: u8 = 82;

/// A tag as the page shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct PageTag {
    /// Category name.
    pub category: String,
    /// Calibrated probability.
    pub score: f32,
    /// Where it was seen, in fractions of the picture; empty where no region supports the tag, and
    /// then there is no heat either.
    pub boxes: Vec<BoundingBox>,
    /// How much each location stands out, row by row, 0 to 1. Empty: no heat is shown.
    pub heat: Vec<f32>,
}

/// A picture as the page shows it.
#[derive(Debug, Clone)]
pub struct PageImage {
    /// Where the picture is; its last part stands above it.
    pub title: String,
    /// The upright picture.
    pub picture: image::RgbImage,
    /// Columns of the saliency maps.
    pub columns: usize,
    /// The part of the picture that the maps cover, in fractions of it.
    pub covered: BoundingBox,
    /// Tags, best first.
    pub tags: Vec<PageTag>,
}

/// Writes the page. `model` is the version that made the tags.
///
/// # Errors
/// [`image::ImageError`] if a picture cannot be encoded.
pub fn render(model: &str, images: &[PageImage]) -> Result<String, image::ImageError> {
    let mut page = String::with_capacity(images.len() * 60_000);
    let tags: usize = images.iter().map(|i| i.tags.len()).sum();
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Tags by {model}</title><style>{STYLE}</style></head><body>\
         <header><h1>{count} pictures, {tags} tags</h1><p>Model {model}. Point at a tag, or \
         move to it by keyboard, to see where it was found.</p></header><main>",
        model = escape(model),
        count = images.len(),
    )
    .expect("writing to a string does not fail");
    for image in images {
        card(&mut page, image)?;
    }
    writeln!(page, "</main><script>{SCRIPT}</script></body></html>")
        .expect("writing to a string does not fail");
    Ok(page)
}

fn card(page: &mut String, image: &PageImage) -> Result<(), image::ImageError> {
    let (width, height) = image.picture.dimensions();
    let scale = (SIDE as f32 / width.max(height) as f32).min(1.0);
    let (w, h) = (
        ((width as f32 * scale).round() as u32).max(1),
        ((height as f32 * scale).round() as u32).max(1),
    );
    let small =
        image::imageops::resize(&image.picture, w, h, image::imageops::FilterType::Triangle);
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY)
        .encode_image(&small)?;
    let covered = image.covered;
    write!(
        page,
        "<article><h2 title=\"{title}\">{name}</h2><div class=\"picture\" \
         style=\"aspect-ratio:{w}/{h};max-width:{widest}px\">\
         <img alt=\"{title}\" src=\"data:image/jpeg;base64,{data}\">\
         <canvas aria-hidden=\"true\" \
         style=\"left:{:.2}%;top:{:.2}%;width:{:.2}%;height:{:.2}%\"></canvas>\
         </div><ul>",
        100.0 * covered.x,
        100.0 * covered.y,
        100.0 * covered.w,
        100.0 * covered.h,
        title = escape(&image.title),
        name = escape(image.title.rsplit('/').next().unwrap_or(&image.title)),
        // A small picture fills its card: boxes on a stamp cannot be read.
        widest = w.max(CARD),
        data = STANDARD.encode(&jpeg),
    )
    .expect("writing to a string does not fail");
    for tag in &image.tags {
        let boxes: Vec<String> = tag.boxes.iter().map(corners).collect();
        write!(
            page,
            "<li><button data-boxes=\"{}\" data-columns=\"{}\" data-map=\"{}\">\
             <span class=\"name\">{}{}</span>\
             <meter min=\"0\" max=\"1\" value=\"{:.3}\"></meter>\
             <span class=\"score\">{:.2}</span></button></li>",
            boxes.join(" "),
            image.columns,
            digits(&tag.heat),
            escape(&tag.category),
            match boxes.is_empty() {
                true => " <small>whole picture</small>",
                false => "",
            },
            tag.score,
            tag.score,
        )
        .expect("writing to a string does not fail");
    }
    if image.tags.is_empty() {
        page.push_str("<li class=\"none\">no tag reached its threshold</li>");
    }
    page.push_str("</ul></article>");
    Ok(())
}

fn corners(b: &BoundingBox) -> String {
    format!("{:.4},{:.4},{:.4},{:.4}", b.x, b.y, b.w, b.h)
}

/// One hexadecimal digit a location.
fn digits(heat: &[f32]) -> String {
    let digit = |level: &f32| char::from_digit((15.0 * level).round() as u32, 16).unwrap_or('0');
    heat.iter().map(digit).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

const STYLE: &str = ":root{color-scheme:light dark;--ink:#1c2128;--soft:#5b6572;--card:#fff;\
--page:#f3f4f6;--line:#d9dde3;--mark:#e4572e}\
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa4b0;--card:#20252c;\
--page:#14171b;--line:#333a43;--mark:#ff7a4d}}\
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);\
font:15px/1.45 system-ui,sans-serif}\
header{padding:24px 28px 4px}h1{font-size:22px;margin:0}header p{margin:4px 0 0;color:var(--soft)}\
main{display:grid;gap:20px;padding:20px 28px 40px;grid-template-columns:repeat(auto-fill,\
minmax(280px,1fr));align-items:start}\
article{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px}\
h2{font-size:13px;font-weight:600;margin:0 0 8px;overflow-wrap:anywhere}\
.picture{position:relative;width:100%}.picture img{display:block;width:100%;height:100%;\
border-radius:6px}\
canvas{position:absolute;opacity:0;image-rendering:auto;transition:opacity .12s;border-radius:6px}\
.box{position:absolute;border:3px solid var(--mark);border-radius:4px;\
box-shadow:0 0 0 1px #fff8;pointer-events:none}\
.on canvas{opacity:.6}ul{list-style:none;margin:10px 0 0;padding:0}\
button{display:grid;grid-template-columns:1fr 90px 36px;gap:10px;align-items:center;width:100%;\
border:0;background:none;color:inherit;font:inherit;\
text-align:left;padding:3px 6px;border-radius:5px;cursor:pointer}button:hover,\
button:focus-visible,button[aria-pressed=true]{background:var(--page);outline:none}\
meter{width:100%;height:9px}.score{font-variant-numeric:tabular-nums;text-align:right;\
color:var(--soft)}small{color:var(--soft);white-space:nowrap}\
.none{color:var(--soft);padding:3px 6px}";

const SCRIPT: &str = "for(const a of document.querySelectorAll('article')){\
const p=a.querySelector('.picture'),c=a.querySelector('canvas');\
let held=null;const show=t=>{p.classList.remove('on');\
p.querySelectorAll('.box').forEach(b=>b.remove());if(!t)return;\
for(const box of t.dataset.boxes.split(' ').filter(Boolean)){\
const [x,y,w,h]=box.split(',').map(v=>100*v+'%'),b=document.createElement('span');\
b.className='box';\
Object.assign(b.style,{left:x,top:y,width:w,height:h});p.append(b)}\
const m=t.dataset.map,n=+t.dataset.columns,r=m.length/n;if(!r)return;c.width=n;c.height=r;\
const g=c.getContext('2d'),d=g.createImageData(n,r);for(let i=0;i<m.length;i++){\
const v=parseInt(m[i],16)/15;d.data.set([255*Math.min(1,2*v),255*Math.max(0,2*v-1),60*(1-v),\
255*Math.min(1,1.4*v)],4*i)}\
g.putImageData(d,0,0);p.classList.add('on')};\
for(const t of a.querySelectorAll('button')){t.addEventListener('mouseenter',()=>show(t));\
t.addEventListener('focus',()=>show(t));\
t.addEventListener('mouseleave',()=>show(held));t.addEventListener('blur',()=>show(held));\
t.addEventListener('click',()=>{const same=held===t;\
a.querySelectorAll('button').forEach(o=>o.setAttribute('aria-pressed',false));held=same?null:t;\
if(held)t.setAttribute('aria-pressed',true);show(held)})}\
const first=a.querySelector('button');if(first)first.click()}";

#[cfg(test)]
mod tests {
    use super::*;

    fn image(title: &str, tags: Vec<PageTag>) -> PageImage {
        PageImage {
            title: title.into(),
            picture: image::RgbImage::from_pixel(900, 30, image::Rgb([9, 99, 200])),
            columns: 2,
            covered: BoundingBox {
                x: 0.0,
                y: 0.0,
                w: 1.0,
                h: 1.0,
            },
            tags,
        }
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let tag = PageTag {
            category: "<script>\"&".into(),
            score: 0.5,
            boxes: vec![BoundingBox {
                x: 0.1,
                y: 0.2,
                w: 0.3,
                h: 0.4,
            }],
            heat: vec![0.0, 0.5, 1.0, 0.25],
        };
        let page = render("m", &[image("a\"><img src=x>", vec![tag])]).unwrap();
        assert!(!page.contains("<img src=x>") && !page.contains("<script>\""));
        assert!(page.contains("data-map=\"08f4\"") && page.contains("0.1000,0.2000,0.3000,0.4000"));
    }

    #[test]
    fn what_no_region_supports_has_neither_box_nor_heat() {
        let tag = PageTag {
            category: "sky".into(),
            score: 0.85,
            boxes: Vec::new(),
            heat: Vec::new(),
        };
        let page = render("m", &[image("a", vec![tag])]).unwrap();
        assert!(page.contains("data-boxes=\"\"") && page.contains("data-map=\"\""));
        assert!(page.contains("whole picture"));
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let page = render("m", &[image("a", Vec::new())]).unwrap();
        assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("src=\"/"));
        assert!(page.contains("no tag reached its threshold"));
    }
}
