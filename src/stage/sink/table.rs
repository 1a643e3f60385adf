//! What the file sink must know about a table: how its rows become columns.

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use arrow_schema::SchemaRef;
use std::sync::Arc;
use tagstream_core::events::Offset;

/// A row of a table that the exactly-once file sink can write.
pub trait TableRow: Send + Sync + Sized + 'static {
    /// What decides the columns' types (vector lengths, category names). Rows of one file share one
    /// layout.
    type Layout: PartialEq + Send + Sync + 'static;

    /// Version of the table's columns; stands in every footer.
    const SCHEMA_VERSION: u32;
    /// String columns that readers look single values up in: they get a Bloom filter.
    const LOOKED_UP: &'static [&'static str];

    /// The message this row came from.
    fn offset(&self) -> Offset;
    /// Bytes of memory that the row holds, roughly.
    fn bytes(&self) -> u64;
    /// The row's layout.
    fn layout(&self) -> &Arc<Self::Layout>;
    /// Rows as columns; also of no rows.
    ///
    /// # Errors
    /// An [`ArrowError`] if a row does not have its layout's shape.
    fn batch(layout: &Self::Layout, rows: &[Self]) -> Result<RecordBatch, ArrowError>;
    /// Paths (Parquet's, with dots) of columns of floats that no dictionary or statistic helps.
    fn vector_columns(layout: &Self::Layout) -> Vec<String>;
    /// Further entries of the footer.
    fn describe(layout: &Self::Layout, rows: &[Self]) -> Vec<(String, String)>;

    /// Takes note that the row is in `file`, or in another writer's if there is no name.
    fn settled(&self, file: Option<&str>) {
        let _ = file;
    }

    /// The columns' names and types.
    ///
    /// # Errors
    /// As [`TableRow::batch`].
    fn schema(layout: &Self::Layout) -> Result<SchemaRef, ArrowError> {
        Self::batch(layout, &[]).map(|batch| batch.schema())
    }
}
