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
    /// In which order the predictions of a partition go out.
    PredictionsOrder {
        /// As its messages came.
        Offset = "offset",
        /// As they are made.
        Ready = "ready",
    }
}
