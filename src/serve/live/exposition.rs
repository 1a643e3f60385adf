//! Prometheus text as a stage serves it: read, and what can be told of two readings.

use std::collections::BTreeMap;

/// One line: a name, its labels, its value.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// All lines of a reading. Lines that cannot be read are passed over: a stage of another version
/// may say more.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Exposition(Vec<Sample>);

/// Most lines that are kept of one reading.
const MOST_LINES: usize = 20_000;

impl Exposition {
    /// Reads a text.
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Exposition(lines.filter_map(sample).take(MOST_LINES).collect())
    }

    /// Values of `name`, with their labels.
    pub(crate) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (Labels<'a>, f64)> + 'a {
        let own = self.0.iter().filter(move |sample| sample.name == name);
        own.map(|sample| (Labels(&sample.labels), sample.value))
    }

    /// The sum over all labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|(_, value)| value).sum()
    }

    /// The sums by one label.
    pub(crate) fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for (labels, value) in self.of(name) {
            *sums.entry(labels.get(label).to_owned()).or_insert(0.0) += value;
        }
        sums
    }

    /// The histogram `name`, over all labels.
    pub(crate) fn histogram(&self, name: &str) -> Histogram {
        let mut bounds: Vec<(f64, f64)> = Vec::new();
        let buckets = format!("{name}_bucket");
        for (labels, value) in self.of(&buckets) {
            let Ok(bound) = labels.get("le").parse::<f64>() else {
                continue;
            };
            match bounds.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += value,
                None => bounds.push((bound, value)),
            }
        }
        bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        Histogram(bounds)
    }
}

/// The labels of a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Labels<'a>(&'a [(String, String)]);

impl<'a> Labels<'a> {
    /// A label's value; empty if it is missing.
    pub(crate) fn get(&self, name: &str) -> &'a str {
        let found = self.0.iter().find(|(label, _)| label == name);
        found.map_or("", |(_, value)| value)
    }
}

/// Counts below bounds, as Prometheus has them: each holds those before.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    /// What came since an earlier reading; all, if the process began anew.
    pub(crate) fn since(&self, earlier: &Histogram) -> Histogram {
        let before = |bound: f64| {
            let found = earlier.0.iter().find(|(known, _)| *known == bound);
            found.map_or(0.0, |(_, count)| *count)
        };
        let differences = self
            .0
            .iter()
            .map(|(bound, count)| (*bound, count - before(*bound)));
        let differences: Vec<_> = differences.collect();
        match differences.iter().any(|(_, count)| *count < 0.0) {
            true => self.clone(),
            false => Histogram(differences),
        }
    }

    /// The value below which this share of all lies, linear within a bucket.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let total = self.0.last()?.1;
        if total <= 0.0 || !total.is_finite() {
            return None;
        }
        let wanted = share * total;
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in &self.0 {
            if *count >= wanted {
                // Beyond the last bound nothing is known but that.
                if bound.is_infinite() {
                    return Some(low);
                }
                let within = (wanted - below) / (count - below).max(f64::MIN_POSITIVE);
                return Some(low + (bound - low) * within.clamp(0.0, 1.0));
            }
            (low, below) = (*bound, *count);
        }
        Some(low)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    // A time may stand behind the value.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let named = !name.is_empty() && name.chars().all(is_name);
    named.then(|| Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

type NamedValues = Vec<(String, String)>;

/// `a="b",c="d"} rest`.
fn labels(mut text: &str) -> Option<(NamedValues, &str)> {
    let mut found = Vec::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((found, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        found.push((name.to_owned(), value));
        text = &rest[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a b\n# TYPE a counter\n\
        tagstream_messages_total{topic=\"images\"} 100\n\
        tagstream_dead_letters_total{topic=\"i\",kind=\"bad_message\"} 3\n\
        tagstream_dead_letters_total{topic=\"j\",kind=\"bad_message\"} 4\n\
        tagstream_dead_letters_total{topic=\"i\",kind=\"a \\\"b\\\\\\n} c\"} 5 1700000000\n\
        plain 2.5e-1\n";

    #[test]
    fn names_labels_and_values_are_read() {
        let read = Exposition::parse(TEXT);
        assert_eq!(read.sum("tagstream_messages_total"), 100.0);
        assert_eq!(read.sum("plain"), 0.25);
        let kinds = read.by("tagstream_dead_letters_total", "kind");
        assert_eq!(kinds["bad_message"], 7.0);
        assert_eq!(kinds["a \"b\\\n} c"], 5.0);
        assert_eq!(read.sum("nothing"), 0.0);
    }

    #[test]
    fn whatever_cannot_be_read_is_passed_over() {
        for line in [
            "",
            "{",
            "a{",
            "a{b",
            "a{b=\"",
            "a{b=\"c\\",
            "a{b=\"c\"}",
            "a b",
            "é{} 1",
        ] {
            assert_eq!(Exposition::parse(line), Exposition::default(), "{line}");
        }
        let many = "a 1\n".repeat(2 * MOST_LINES);
        assert_eq!(Exposition::parse(&many).0.len(), MOST_LINES);
    }

    #[test]
    fn quantiles_lie_within_their_buckets() {
        let text = |low, high, all| {
            format!(
                "s_bucket{{le=\"0.1\"}} {low}\ns_bucket{{le=\"1\"}} {high}\n\
                 s_bucket{{le=\"+Inf\"}} {all}\n"
            )
        };
        let first = Exposition::parse(&text(10, 10, 10)).histogram("s");
        let later = Exposition::parse(&text(10, 30, 30)).histogram("s");
        let between = later.since(&first);
        assert_eq!(between.quantile(0.5), Some(0.1 + 0.9 * 0.5));
        assert_eq!(first.quantile(0.5), Some(0.05));
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(first.since(&first).quantile(0.5), None, "nothing came");
        let beyond = Exposition::parse(&text(0, 0, 8)).histogram("s");
        assert_eq!(beyond.quantile(0.5), Some(1.0), "only that it is more");
        assert_eq!(first.since(&later), first, "the process began anew");
    }
}
