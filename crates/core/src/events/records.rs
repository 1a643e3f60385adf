//! Which records of a message are meant, as a header writes it: `0,3-5`.

/// Most records that a list may name.
const MOST: usize = 1 << 20;

/// Numbers of records, in their order, as a list of ranges.
///
/// ```
/// use tagstream_core::events::{listed_records, record_list};
///
/// assert_eq!(record_list(&[0, 3, 4, 5]), "0,3-5");
/// assert_eq!(listed_records("0,3-5"), Some(vec![0, 3, 4, 5]));
/// assert_eq!(listed_records("5-3"), None);
/// ```
pub fn record_list(records: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for record in records {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*record) => *last = *record,
            _ => ranges.push((*record, *record)),
        }
    }
    let text = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    text.collect::<Vec<_>>().join(",")
}

/// What [`record_list`] wrote; `None` if it is no such list.
pub fn listed_records(list: &str) -> Option<Vec<u32>> {
    let mut records = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        let follows = records.last().is_none_or(|before| *before < first);
        if first > last || !follows || (last - first) as usize >= MOST - records.len() {
            return None;
        }
        records.extend(first..=last);
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written_and_nothing_else_is_one() {
        for records in [&[7][..], &[0, 1, 2], &[0, 2, 4], &[1, 2, 9, 10, 99]] {
            assert_eq!(
                listed_records(&record_list(records)).as_deref(),
                Some(records)
            );
        }
        for list in [
            "",
            "a",
            "-1",
            "1-",
            "3,2",
            "2,2",
            "0-4294967295",
            "1,,2",
            " 1",
        ] {
            assert_eq!(listed_records(list), None, "{list}");
        }
    }
}
