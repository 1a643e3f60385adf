//! How rows and messages go out.

use super::choice;

choice! {
    /// File format of the tables.
    FileFormat {
        /// Apache Parquet.
        Parquet = "parquet",
        /// Arrow IPC file.
        Arrow = "arrow",
    }
}

choice! {
    /// How vectors of floats lie in Parquet files.
    VectorEncoding {
        /// One value after another: every reader takes it.
        Plain = "plain",
        /// Split by byte: smaller, but Spark before 4 cannot read it.
        ByteStreamSplit = "byte_stream_split",
    }
}

choice! {
    /// What rows say of the places where tags are seen.
    BoxForm {
        /// One box a tag; the whole picture where no region supports it.
        One = "one",
        /// Every region's box; none where no region supports the tag.
        All = "all",
        /// The same, and which cells of each box belong to its region.
        Masks = "masks",
    }
}

impl Default for BoxForm {
    /// What tables have had from the beginning.
    fn default() -> Self {
        BoxForm::One
    }
}

choice! {
    /// In which order the predictions of a partition go out.
    PredictionsOrder {
        /// As its messages came.
        Offset = "offset",
        /// As they are made.
        Ready = "ready",
    }
}
