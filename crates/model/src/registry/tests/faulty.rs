//! An object store that fails at one chosen write.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What happens at the chosen write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    /// The process dies before it: nothing is written, and nothing ever works again.
    DiesBefore,
    /// The process dies after it: it is written, and nothing ever works again.
    DiesAfter,
    /// It is written, but the answer is lost; later calls work.
    AnswerLost,
    /// Nothing fails, but every condition is ignored.
    IgnoresConditions,
}

/// Passes everything to `inner`, except the write of number `at` (from 0).
#[derive(Debug)]
pub(super) struct Faulty {
    pub inner: Arc<dyn ObjectStore>,
    pub at: usize,
    pub fault: Fault,
    pub writes: AtomicUsize,
}

impl Faulty {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, at: usize, fault: Fault) -> Arc<Self> {
        Arc::new(Faulty {
            inner,
            at,
            fault,
            writes: AtomicUsize::new(0),
        })
    }

    /// Whether the chosen write was reached.
    pub(super) fn struck(&self) -> bool {
        self.writes.load(Ordering::SeqCst) > self.at
    }

    fn dead(&self) -> bool {
        self.struck() && matches!(self.fault, Fault::DiesBefore | Fault::DiesAfter)
    }

    fn alive(&self) -> Result<()> {
        if self.dead() { Err(crashed()) } else { Ok(()) }
    }
}

fn crashed() -> Error {
    Error::Generic {
        store: "faulty",
        source: "the simulated process is dead".into(),
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        self.alive()?;
        if self.fault == Fault::IgnoresConditions {
            options.mode = PutMode::Overwrite;
        }
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        if number == self.at {
            match self.fault {
                Fault::DiesBefore => return Err(crashed()),
                Fault::DiesAfter | Fault::AnswerLost => {
                    self.inner.put_opts(location, payload, options).await?;
                    return Err(crashed());
                }
                Fault::IgnoresConditions => {}
            }
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.alive()?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.alive()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.alive()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.alive()?;
        self.inner.copy_opts(from, to, options).await
    }
}
