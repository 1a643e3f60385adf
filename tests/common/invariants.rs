//! What must hold of a partition's files, whoever wrote them: shared by the model checker of the
//! protocol and by the checker that reads what chaos left.

/// A file's half-open range of offsets.
pub(crate) type Range = (i64, i64);

/// Where the files of one epoch are no chain: each pair of neighbours of which the second does not
/// start where the first ends.
pub(crate) fn breaks(files: impl IntoIterator<Item = Range>) -> Vec<(Range, Range)> {
    let mut files: Vec<Range> = files.into_iter().collect();
    files.sort_unstable();
    files
        .windows(2)
        .filter(|pair| pair[0].1 != pair[1].0)
        .map(|pair| (pair[0], pair[1]))
        .collect()
}

/// Whether `offset` stands in more than one file.
pub(crate) fn doubled(files: impl IntoIterator<Item = Range>, offset: i64) -> bool {
    let holds = |(start, end): &Range| (*start..*end).contains(&offset);
    files.into_iter().filter(holds).count() > 1
}
