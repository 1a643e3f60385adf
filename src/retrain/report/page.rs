//! `report.html`.

use super::chart::escape;
use super::{BOUNDS, Confidence, Example, ExampleTag, ReportFacts, chart};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write;
use tagstream_core::events::BoundingBox;
use tagstream_model::registry::Verdict;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1a1d23;--soft:#5b6472;--line:#d9dde4;--card:#fff;--page:#f4f6f9}
@media(prefers-color-scheme:dark){:root{--ink:#e7eaf0;--soft:#9aa4b2;--line:#333a46;--card:#1b2029;--page:#12151b}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:820px;margin:0 auto;padding:24px 16px 64px}h1{font-size:22px;margin:0}h2{font-size:17px;margin:0 0 12px}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px;margin-top:16px;overflow-x:auto}
.top{display:flex;align-items:center;gap:16px;flex-wrap:wrap}.verdict{font-weight:700;padding:4px 14px;border-radius:99px;color:#fff}
.PROMOTE{background:#047857}.HOLD{background:#b45309}.REJECT{background:#b91c1c}.note,.soft{color:var(--soft)}p{margin:6px 0}
.big{display:flex;gap:32px;flex-wrap:wrap;margin-top:14px}.big div{min-width:120px}.big b{display:block;font-size:26px;line-height:1.2}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:6px 10px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:500}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}th.n{white-space:normal}td.wide{width:30%;vertical-align:middle}.gates td:first-child{min-width:min(13em,28vw)}.yes{color:#059669;font-weight:700}.no{color:#dc2626;font-weight:700}
svg{width:100%;min-width:560px;height:auto;display:block}.grid{stroke:var(--line)}.axis{fill:var(--soft);font-size:11px}.name{fill:var(--ink);font-size:12px}
.interval{stroke:var(--soft);stroke-width:1.5;opacity:.7}.before{fill:var(--card);stroke:var(--soft);stroke-width:2}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;color:var(--soft);font-size:13px}.legend i{display:inline-block;width:11px;height:11px;border-radius:50%;margin-right:6px}
.legend i.unknown{background:var(--line)}.legend i.hollow{border:2px solid var(--soft)}.legend i.bar{height:2px;width:18px;border-radius:0;background:var(--soft);vertical-align:middle}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:16px}.pictures figure{margin:0}
.shot{position:relative;display:block;width:fit-content}.shot img{max-width:100%;max-height:300px;display:block;border-radius:6px}.shot span{position:absolute;border:2px solid #2563eb;border-radius:3px;box-shadow:0 0 0 1px #fff8}
.shot span em{position:absolute;left:-2px;top:-2px;background:#2563eb;color:#fff;font:11px/1.3 system-ui;padding:0 4px;border-radius:3px 0 3px 0;white-space:nowrap}
figcaption{font-size:13px;margin-top:6px;overflow-wrap:anywhere}.chip{display:inline-block;padding:0 6px;border-radius:4px;border:1px solid var(--line);margin:1px 2px 1px 0}
.right{border-color:#059669;color:#059669}.wrong{border-color:#dc2626;color:#dc2626}.cover{display:flex;height:10px;border-radius:3px;overflow:hidden;background:var(--line);min-width:160px}
.cover i{display:block}code{font-size:13px;overflow-wrap:anywhere}";

pub(super) fn html(f: &ReportFacts<'_>) -> String {
    let mut h = String::new();
    let j = f.judgement;
    let _ = write!(
        h,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>Retraining {}: {}</title><style>{STYLE}</style><main><section><div class=top>\
         <span class='verdict {}'>{}</span><h1>Retraining {}</h1></div><p>{}</p>",
        escape(f.run),
        j.verdict,
        j.verdict,
        j.verdict,
        escape(f.run),
        sentence(j.verdict)
    );
    let champion = f
        .champion_version
        .map_or(String::new(), |v| format!("version {v}, "));
    let _ = write!(
        h,
        "<p class=soft>Champion: {champion}<code>{}</code><br>Candidate: <code>{}</code> ({}, seed {})<br>{} - tagstream {}</p>\
         <div class=big><div><span class=soft>mAP before</span><b>{}</b></div><div><span class=soft>mAP after</span><b>{}</b></div>\
         <div><span class=soft>difference</span><b>{}</b>{}</div>\
         <div><span class=soft>held out</span><b>{}</b>images, {} labels</div></div></section>",
        escape(f.champion),
        escape(f.candidate),
        escape(f.method),
        f.seed,
        f.written.format("%Y-%m-%d %H:%M UTC"),
        f.code_version,
        points(j.champion_map),
        points(j.candidate_map),
        signed(j.difference.estimate),
        interval(j.difference.lower, j.difference.upper),
        j.images,
        j.labels
    );
    h.push_str("<section><h2>Gates</h2><table class=gates><tr><th>gate<th>measured<th>asked<th>otherwise</tr>");
    for gate in &j.gates {
        let (class, mark) = if gate.passed {
            ("yes", "&#10003;")
        } else {
            ("no", "&#10007;")
        };
        let _ = write!(
            h,
            "<tr><td><span class={class}>{mark}</span> {}<td>{}<td>{}<td class=soft>{}</tr>",
            escape(&gate.name),
            escape(&gate.measured),
            escape(&gate.asked),
            gate.otherwise
        );
    }
    let _ = write!(
        h,
        "</table></section><section><h2>Average precision by category</h2><p class=note>Over held-out images whose label is known; of categories \
         with too few known presences nothing is said. With few labels AP is higher than it would be on all of them: compare before with after.</p>{}</section>\
         <section><h2>Training losses</h2><p class=note>Each part in percent of its largest value; below, its value in the first and in the last epoch.</p>{}</section>",
        chart::categories(&j.categories),
        chart::curves(f.curves)
    );
    confidence(&mut h, f.confidence);
    pictures(&mut h, f.examples);
    labels(&mut h, f);
    h.push_str("<section><h2>Cost</h2><table>");
    for (step, seconds) in &f.cost.seconds {
        let _ = write!(h, "<tr><td>{}<td class=n>{seconds:.1} s</tr>", escape(step));
    }
    let total: f64 = f.cost.seconds.iter().map(|s| s.1).sum();
    let _ = write!(
        h,
        "<tr><td>together<td class=n>{total:.1} s</tr><tr><td>largest memory of the process<td class=n>{} MiB</tr></table></section></main></html>",
        f.cost.peak_mib
    );
    h
}

fn sentence(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Promote => {
            "The candidate is measurably not worse and worth the change: it serves from now on."
        }
        Verdict::Hold => {
            "The candidate is kept but does not serve: it is not certainly better, or too little is known."
        }
        Verdict::Reject => {
            "The candidate is worse or broken: it is kept for inspection and must not serve."
        }
    }
}

fn points(x: f64) -> String {
    if x.is_finite() {
        format!("{:.2}", 100.0 * x)
    } else {
        "-".into()
    }
}

fn signed(x: f64) -> String {
    if x.is_finite() {
        format!("{:+.2}", 100.0 * x)
    } else {
        "-".into()
    }
}

fn interval(lower: f64, upper: f64) -> String {
    if lower.is_finite() && upper.is_finite() {
        format!("between {:+.2} and {:+.2}", 100.0 * lower, 100.0 * upper)
    } else {
        "not measurable".into()
    }
}

fn confidence(h: &mut String, counts: &[Confidence; 2]) {
    h.push_str(
        "<section><h2>How sure, and how right</h2><p class=note>Held-out labels, which neither training nor pseudo-labels have seen, by the \
         probability that the model gives. The first and the last line are as sure as a pseudo-label: the share of presences there is the \
         precision of its kind. Few labels say little.</p>\
         <table><tr><th>probability<th class=n>champion: labels<th class=n>present<th class=n>candidate: labels<th class=n>present</tr>",
    );
    for range in 0..=BOUNDS.len() {
        let bound = |at: Option<usize>, otherwise: f64| {
            let bound = at.and_then(|at| BOUNDS.get(at));
            100.0 * bound.copied().unwrap_or(otherwise)
        };
        let (from, to) = (bound(range.checked_sub(1), 0.0), bound(Some(range), 1.0));
        let _ = write!(h, "<tr><td>{from:.0} to {to:.0} %");
        for counted in counts.iter().map(|c| c.ranges[range]) {
            let share = match counted.known {
                0 => "-".to_owned(),
                known => format!("{:.1} %", 100.0 * counted.present as f64 / known as f64),
            };
            let _ = write!(h, "<td class=n>{}<td class=n>{share}", counted.known);
        }
        h.push_str("</tr>");
    }
    h.push_str("</table></section>");
}

/// Boxes with the names of the tags that have them: many tags are seen at one place, where their
/// names would hide each other.
pub(super) fn boxes(tags: &[ExampleTag]) -> Vec<(BoundingBox, String)> {
    let mut boxes: Vec<(BoundingBox, String)> = Vec::new();
    for tag in tags {
        match boxes.iter_mut().find(|(b, _)| *b == tag.bounding_box) {
            Some((_, names)) => {
                names.push_str(", ");
                names.push_str(&tag.category);
            }
            None => boxes.push((tag.bounding_box, tag.category.clone())),
        }
    }
    boxes
}

fn pictures(h: &mut String, examples: &[Example]) {
    if examples.is_empty() {
        return;
    }
    h.push_str(
        "<section><h2>Held-out pictures</h2><p class=note>Boxes show the candidate's three best tags. A green tag is known to be right, a red one \
         known to be wrong; of the others nothing is known.</p><div class=pictures>",
    );
    for e in examples {
        let _ = write!(
            h,
            "<figure><span class=shot><img alt='{}' src='data:image/jpeg;base64,{}'>",
            escape(&e.image_id),
            STANDARD.encode(&e.picture)
        );
        let shown = boxes(&e.after[..e.after.len().min(3)]);
        for (i, (b, names)) in shown.iter().enumerate() {
            // Names of boxes that begin at one corner stand below each other.
            let above = shown[..i].iter().filter(|(o, _)| (o.x, o.y) == (b.x, b.y));
            let _ = write!(
                h,
                "<span style='left:{:.1}%;top:{:.1}%;width:{:.1}%;height:{:.1}%'><em style='top:{}px'>{}</em></span>",
                100.0 * b.x,
                100.0 * b.y,
                100.0 * b.w,
                100.0 * b.h,
                16 * above.count() as i32 - 2,
                escape(names)
            );
        }
        let _ = write!(
            h,
            "</span><figcaption><b>{}</b><br><span class=soft>before</span> {}<br><span class=soft>after</span> {}</figcaption></figure>",
            escape(&e.image_id),
            chips(&e.before, e),
            chips(&e.after, e)
        );
    }
    h.push_str("</div></section>");
}

fn chips(tags: &[ExampleTag], example: &Example) -> String {
    if tags.is_empty() {
        return "<span class=note>no tag</span>".into();
    }
    let mut out = String::new();
    for tag in tags {
        let class = if example.present.contains(&tag.category) {
            "chip right"
        } else if example.absent.contains(&tag.category) {
            "chip wrong"
        } else {
            "chip"
        };
        let _ = write!(
            out,
            "<span class='{class}'>{} {:.2}</span>",
            escape(&tag.category),
            tag.score
        );
    }
    out
}

fn labels(h: &mut String, f: &ReportFacts<'_>) {
    let l = &f.labels;
    let _ = write!(
        h,
        "<section><h2>Labels</h2><p>{} known labels on {} images: {} labels on {} images to learn from, {} on {} held out. Snapshot <code>{}</code>.</p>",
        l.known,
        l.images,
        l.train_known,
        l.train_images,
        l.held_out_known,
        l.held_out_images,
        &l.snapshot[..16.min(l.snapshot.len())]
    );
    if l.without_uri > 0 {
        let _ = write!(
            h,
            "<p class=note>{} labelled images have no address and could not be used.</p>",
            l.without_uri
        );
    }
    if l.of_unknown_categories > 0 {
        let _ = write!(
            h,
            "<p class=note>{} labels are of categories that the model does not know yet.</p>",
            l.of_unknown_categories
        );
    }
    if !l.new_categories.is_empty() {
        let _ = write!(
            h,
            "<p>New categories: {}.</p>",
            escape(&l.new_categories.join(", "))
        );
    }
    h.push_str(
        "<p class=legend><span><i style='background:#059669'></i>present</span><span><i style='background:#d97706'></i>absent</span>\
         <span><i class=unknown></i>unknown</span></p>\
         <table><tr><th>category<th class=n>present<th class=n>absent<th class=n>unknown<th class=n>known<th></tr>",
    );
    for (name, c) in &l.categories {
        let all = (c.present + c.absent + c.unknown).max(1) as f64;
        let _ = write!(
            h,
            "<tr><td>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{:.1} %<td class=wide><div class=cover title='present, absent, unknown'>\
             <i style='width:{:.2}%;background:#059669'></i><i style='width:{:.2}%;background:#d97706'></i></div></tr>",
            escape(name),
            c.present,
            c.absent,
            c.unknown,
            100.0 * (c.present + c.absent) as f64 / all,
            100.0 * c.present as f64 / all,
            100.0 * c.absent as f64 / all
        );
    }
    h.push_str("</table></section>");
}
