//! `report.html`.

use super::{
    BOUNDS, Confidence, Cost, EmbeddingDrift, Example, ExampleTag, LabelFacts, ReportFacts, chart,
};
use crate::retrain::judge::{Gate, Interval, Judgement};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write;
use tagstream_core::events::BoundingBox;
use tagstream_model::registry::Verdict;
use tagstream_train::chart::escape;
use tagstream_train::eval::tags::TagQuality;

const STYLE: &str = include_str!("page.css");

pub(super) fn html(f: &ReportFacts<'_>) -> String {
    let mut h = String::new();
    head(&mut h, f);
    tags(&mut h, f.judgement);
    gates(&mut h, &f.judgement.gates);
    let _ = write!(
        h,
        "<section><h2>Average precision by category</h2><p class=note>Over unseen images whose \
         label is known; of categories with too few known presences nothing is said. With few \
         labels AP is higher than it would be on all of them: compare before with after.</p>{}\
         </section><section><h2>Training losses</h2><p class=note>Each part in percent of its \
         largest value; below, its value in the first and in the last epoch.</p>{}</section>",
        chart::categories(&f.judgement.categories),
        chart::curves(f.curves)
    );
    confidence(&mut h, f.confidence);
    pictures(&mut h, f.examples);
    labels(&mut h, f);
    drift(&mut h, f.drift.as_ref());
    cost(&mut h, f.cost);
    h.push_str("</main></html>");
    h
}

/// What was decided, and about what.
fn head(h: &mut String, f: &ReportFacts<'_>) {
    let j = f.judgement;
    let (run, verdict) = (escape(f.run), j.verdict);
    let version = f.champion_version;
    let version = version.map_or(String::new(), |v| format!("version {v}, "));
    let _ = write!(
        h,
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content='width=device-width'>\
         <title>Retraining {run}: {verdict}</title><style>{STYLE}</style><main>\
         <section><div class=top><span class='verdict {verdict}'>{verdict}</span>\
         <h1>Retraining {run}</h1></div><p>{}</p>",
        sentence(verdict)
    );
    let _ = write!(
        h,
        "<p class=soft>Champion: {version}<code>{}</code><br>\
         Candidate: <code>{}</code> ({}, seed {})<br>{} - tagstream {}</p>",
        escape(f.champion),
        escape(f.candidate),
        escape(f.method),
        f.seed,
        f.written.format("%Y-%m-%d %H:%M UTC"),
        f.code_version
    );
    figures(h, j);
}

/// What was measured, tags first; nothing that too few labels stand behind.
fn figures(h: &mut String, j: &Judgement) {
    let judged = format!(
        "<div><span class=soft>judged on</span><b>{}</b>images in {} groups, {} labels</div>",
        j.images, j.groups, j.labels
    );
    let wanted = j.labels_wanted.map_or(String::new(), |more| {
        format!("<p>Enough for a decision at about {more} more labels.</p>")
    });
    if !j.has_evidence() {
        let _ = write!(
            h,
            "<div class=big>{judged}</div><p>Too little is known to say how good the models \
             are.</p>{wanted}</section>"
        );
        return;
    }
    h.push_str("<div class=big>");
    if let Some(tags) = &j.tags {
        let pair = |of: fn(&TagQuality) -> Option<f64>| {
            format!(
                "{} &rarr; {}",
                share(of(&tags.champion)),
                share(of(&tags.candidate))
            )
        };
        let _ = write!(
            h,
            "<div><span class=soft>tags right</span><b>{}</b>{}</div>\
             <div><span class=soft>found</span><b>{}</b>{}</div>\
             <div><span class=soft>tags a picture</span><b>{:.2} &rarr; {:.2}</b>about {:.2} are \
             there</div>",
            pair(|t| t.right),
            interval(tags.right.lower, tags.right.upper),
            pair(|t| t.found),
            interval(tags.found.lower, tags.found.upper),
            tags.champion.per_image,
            tags.candidate.per_image,
            tags.present_per_image
        );
    }
    let (d, weighed) = (&j.difference, &j.by_presences);
    let _ = write!(
        h,
        "<div><span class=soft>mAP, {} categories</span><b>{} &rarr; {}</b>{}\
         <br><span class=soft>each by its known presences</span> {}</div>{judged}</div>\
         {wanted}</section>",
        j.categories.len(),
        points(j.champion_map),
        points(j.candidate_map),
        interval(d.lower, d.upper),
        interval(weighed.lower, weighed.upper)
    );
}

/// Tags of each category.
fn tags(h: &mut String, j: &Judgement) {
    let Some(tags) = j.tags.as_ref().filter(|_| j.has_evidence()) else {
        return;
    };
    let _ = write!(
        h,
        "<section><h2>Tags</h2><p class=note>A tag is a category whose probability reaches its \
         threshold; thresholds aim at {}. Right: share of tags that are right; found: share of \
         what is there that is tagged. Known entries are weighted so that they stand for all of \
         their category and of like scores; the candidate's thresholds were not chosen by the \
         labels that they are measured on. Before: as the champion emits them; differences are \
         from the champion with thresholds chosen alike.</p><table><tr><th>category\
         <th class=n>known present<th class=n>right before<th class=n>after\
         <th class=n>found before<th class=n>after<th class=n>a picture before<th class=n>after\
         <th class=n>F1, difference</tr>",
        escape(&tags.target)
    );
    let mut line = |name: &str, before: &TagQuality, after: &TagQuality, f1: &Interval| {
        let _ = write!(
            h,
            "<tr><td>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}\
             <td class=n>{:.2}<td class=n>{:.2}<td class=n>{}</tr>",
            escape(name),
            after.known_present,
            share(before.right),
            share(after.right),
            share(before.found),
            share(after.found),
            before.per_image,
            after.per_image,
            interval(f1.lower, f1.upper)
        );
    };
    line("all", &tags.champion, &tags.candidate, &tags.f1);
    for c in &tags.categories {
        line(&c.category, &c.champion, &c.candidate, &c.f1);
    }
    h.push_str("</table></section>");
}

fn share(x: Option<f64>) -> String {
    x.map_or("-".into(), |x| format!("{:.0} %", 100.0 * x))
}

fn gates(h: &mut String, gates: &[Gate]) {
    h.push_str(
        "<section><h2>Gates</h2><table class=gates>\
         <tr><th>gate<th>measured<th>asked<th>otherwise</tr>",
    );
    for gate in gates {
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
    h.push_str("</table></section>");
}

fn cost(h: &mut String, cost: &Cost) {
    h.push_str("<section><h2>Cost</h2><table>");
    for (step, seconds) in &cost.seconds {
        let _ = write!(h, "<tr><td>{}<td class=n>{seconds:.1} s</tr>", escape(step));
    }
    let total: f64 = cost.seconds.iter().map(|s| s.1).sum();
    let _ = write!(
        h,
        "<tr><td>together<td class=n>{total:.1} s</tr>\
         <tr><td>largest memory of the process<td class=n>{} MiB</tr></table></section>",
        cost.peak_mib
    );
}

fn sentence(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Promote => {
            "The candidate is measurably not worse and worth the change: it serves from now on."
        }
        Verdict::Hold => {
            "The candidate is kept but does not serve: it is not certainly better, or too little \
             is known."
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

fn interval(lower: f64, upper: f64) -> String {
    if lower.is_finite() && upper.is_finite() {
        format!("between {:+.2} and {:+.2}", 100.0 * lower, 100.0 * upper)
    } else {
        "not measurable".into()
    }
}

fn confidence(h: &mut String, counts: &[Confidence; 2]) {
    h.push_str(
        "<section><h2>How sure, and how right</h2><p class=note>Labels which neither training nor \
         pseudo-labels of the heads that judge have seen, by the probability that the model gives. \
         The first and the last line are as sure as a pseudo-label: the share of presences there \
         is the precision of its kind. Few labels say little.</p><table><tr><th>probability\
         <th class=n>champion: labels<th class=n>present\
         <th class=n>candidate: labels<th class=n>present</tr>",
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
        for place in &tag.boxes {
            match boxes.iter_mut().find(|(b, _)| b == place) {
                Some((_, names)) => {
                    names.push_str(", ");
                    names.push_str(&tag.category);
                }
                None => boxes.push((*place, tag.category.clone())),
            }
        }
    }
    boxes
}

fn pictures(h: &mut String, examples: &[Example]) {
    if examples.is_empty() {
        return;
    }
    h.push_str(
        "<section><h2>Pictures</h2><p class=note>Boxes show the candidate's three best tags. A \
         green tag is known to be right, a red one known to be wrong; of the others nothing is \
         known. With heads that judge the candidate itself has learned from these labels: its \
         figures above are the heads'.</p><div class=pictures>",
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
                "<span style='left:{:.1}%;top:{:.1}%;width:{:.1}%;height:{:.1}%'>\
                 <em style='top:{}px'>{}</em></span>",
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
            "</span><figcaption><b>{}</b><br><span class=soft>before</span> {}<br>\
             <span class=soft>after</span> {}</figcaption></figure>",
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

/// Whether what is tagged now is like what was trained on.
fn drift(h: &mut String, drift: Option<&EmbeddingDrift>) {
    h.push_str("<section><h2>What is tagged now, beside what was trained on</h2>");
    let Some(drift) = drift else {
        h.push_str(
            "<p class=note>Not compared: that takes 200 images that the candidate was trained on, \
             and 200 that the champion has tagged.</p></section>",
        );
        return;
    };
    let said = match drift.index > 0.25 {
        true => "They are other images: have some of what comes now labelled",
        false => "They are like them",
    };
    let _ = write!(
        h,
        "<p>The {} images that the champion tagged last, by how like the {} training images their \
         embeddings are; without drift each column has a tenth. Population stability index \
         {:.2}. {said} (above 0.25 a distribution counts as another one).</p><table><tr>",
        drift.tagged, drift.trained_on, drift.index
    );
    h.push_str("<th>least like");
    for tenth in 2..drift.tenths.len() {
        let _ = write!(h, "<th class=n>{tenth}");
    }
    h.push_str("<th class=n>most like<tr>");
    for count in drift.tenths {
        let _ = write!(
            h,
            "<td class=n>{:.0} %",
            100.0 * count as f64 / drift.tagged as f64
        );
    }
    h.push_str("</table></section>");
}

fn labels(h: &mut String, f: &ReportFacts<'_>) {
    let l = &f.labels;
    let _ = write!(
        h,
        "<section><h2>Labels</h2><p>{} known labels on {} images; {} labels on {} images could be \
         used, {} on {} neither model has seen. {}. {} groups of relatives; {} images have one. \
         Snapshot <code>{}</code>.</p>",
        l.known,
        l.images,
        l.used_known,
        l.used_images,
        l.judged_known,
        l.judged_images,
        match l.folds {
            1 => "A share was held out".to_owned(),
            folds => format!("{folds} heads judge, each a part that it has not seen"),
        },
        l.groups,
        l.with_relatives,
        &l.snapshot[..16.min(l.snapshot.len())]
    );
    unused_labels(h, l);
    if !l.new_categories.is_empty() {
        let _ = write!(
            h,
            "<p>New categories: {}.</p>",
            escape(&l.new_categories.join(", "))
        );
    }
    label_cover(h, l);
    h.push_str("</section>");
}

/// What was not compared, had no room, no address or no category, a note for each.
fn unused_labels(h: &mut String, l: &LabelFacts<'_>) {
    if l.not_compared > 0 {
        let _ = write!(
            h,
            "<p class=note>{} images were too many to be compared for near-duplicates \
             (groups.compared): each counts as a group of its own.</p>",
            l.not_compared
        );
    }
    if let Some(left_out) = l.left_out {
        let present = left_out.present.iter();
        let present = present.map(|(name, count)| format!("{} {count}", escape(name)));
        let _ = write!(
            h,
            "<p class=note>The features of {} images with {} known labels had no room \
             (features.memory_mib, features.cache_limit_gib), and those that teach least were left \
             out. Presences among them: {}.</p>",
            left_out.images,
            left_out.known,
            present.collect::<Vec<_>>().join(", ")
        );
    }
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
}

/// How much is known of each category, as a table with bars.
fn label_cover(h: &mut String, l: &LabelFacts<'_>) {
    h.push_str(
        "<p class=legend><span><i style='background:#059669'></i>present</span>\
         <span><i style='background:#d97706'></i>absent</span>\
         <span><i class=unknown></i>unknown</span></p><table><tr><th>category<th class=n>present\
         <th class=n>absent<th class=n>unknown<th class=n>known<th></tr>",
    );
    for (name, c) in &l.categories {
        let all = (c.present + c.absent + c.unknown).max(1) as f64;
        let _ = write!(
            h,
            "<tr><td>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{:.1} %\
             <td class=wide><div class=cover title='present, absent, unknown'>\
             <i style='width:{:.2}%;background:#059669'></i>\
             <i style='width:{:.2}%;background:#d97706'></i></div></tr>",
            escape(name),
            c.present,
            c.absent,
            c.unknown,
            100.0 * (c.present + c.absent) as f64 / all,
            100.0 * c.present as f64 / all,
            100.0 * c.absent as f64 / all
        );
    }
    h.push_str("</table>");
}
