//! Pages on which people see what the stages do and decide about models; a process of its own
//! (`tagstream serve`), which no stage waits for.
//!
//! | path | what |
//! |---|---|
//! | `/` | live: throughput, lag, dead letters, the model that serves, the newest pictures |
//! | `/review` | pictures worth a label, and answers as label events |
//! | `/search` | pictures of the tables, by words, likeness, tag and time |
//! | `/models` | versions, decisions, comparing two, promoting and rolling back |
//! | `/v1/...`, `/v2/...` | the model over HTTP |
//! | `/label-studio/...` | Label Studio's webhook and ML backend |
//! | `/pictures/{key}` | a picture that a page shows |
//! | `/login`, `/logout` | who somebody is, where tokens are used |
//!
//! Every request passes `access` first. Pages are written by `maud`, which escapes by type;
//! what they load comes from here alone, and a policy has browsers refuse anything else.

mod access;
mod addresses;
mod api;
mod body;
pub mod config;
mod format;
mod frame;
mod heat;
mod live;
mod models;
mod picture_view;
mod pictures;
mod review;
mod rows;
mod search;
mod studio;
mod visitor;

pub use access::TokenFileError;
pub use live::LiveError;
pub use search::index::{IndexReport, SearchIndexError, bring_up_to_date};

use crate::labelling::PublishError;
use crate::ops::connections::{Bounded, ConnectionLimits, Peer};
use access::Access;
use api::Predictor;
use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use config::ServeConfig;
use frame::Trouble;
use heat::Heat;
use live::Board;
use models::Catalogue;
use pictures::Pictures;
use review::{Labeller, Review};
use search::Search;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use studio::Studio;
use tagstream_core::config::ConfigError;
use tagstream_core::storage::store::{StoreError, TableStore};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Why the pages cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on `{bind}` (serve.bind): {source}")]
    Bind {
        /// The address.
        bind: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file of tokens.
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
    /// The rules for fetching.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tables' address.
    #[error("tables.url: {0}")]
    Tables(StoreError),
    /// Nothing can be watched.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// Nothing can be labelled.
    #[error(transparent)]
    Labels(#[from] PublishError),
}

impl ServeError {
    /// Whether the configuration is what keeps the pages from being served.
    pub fn is_usage(&self) -> bool {
        match self {
            ServeError::Tokens(_) | ServeError::Config(_) | ServeError::Labels(_) => true,
            ServeError::Tables(error) => error.is_usage(),
            ServeError::Live(error) => matches!(error, LiveError::Kafka(_)),
            ServeError::Bind { .. } => false,
        }
    }
}

/// The pages, served until this is dropped.
#[derive(Debug)]
pub struct Pages {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Pages {
    /// Opens the port and begins to watch. Registry, tables and broker need not be there yet: the
    /// pages say what does not answer.
    ///
    /// # Errors
    /// [`ServeError`] names the key.
    pub async fn start(config: &ServeConfig) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Bind {
            bind: config.serve.bind.clone(),
            source,
        };
        let listener = TcpListener::bind(&config.serve.bind).await;
        let listener = listener.and_then(TcpListener::into_std).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let routes = routes(config, address)?;
        let limits = ConnectionLimits {
            most: config.serve.max_connections,
            a_second: config.serve.connections_per_second,
            idle: Duration::from_millis(config.serve.idle_timeout_ms),
        };
        let listener = Bounded::new(listener, limits, &[]).map_err(failed)?;
        let service = routes.into_make_service_with_connect_info::<Peer>();
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, service).await {
                tracing::error!(%error, "the pages' port has failed");
            }
        });
        Ok(Pages { address, task })
    }

    /// Where they are served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn routes(config: &ServeConfig, address: SocketAddr) -> Result<Router, ServeError> {
    let access = Arc::new(Access::new(config, address)?);
    let store = match config.tables.url.as_str() {
        "" => None,
        url => {
            let opened = TableStore::open_for_reading(url, &config.object_store);
            Some(opened.map_err(ServeError::Tables)?)
        }
    };
    let pictures = Pictures::new(&config.fetch, &config.decode, &config.object_store)?;
    let pictures = Arc::new(pictures);
    let catalogue = Arc::new(Catalogue::new(&config.registry.url, &config.object_store));
    let board = Board::start(
        config,
        store.as_ref(),
        Arc::clone(&catalogue),
        Arc::clone(&pictures),
    )?;
    let predictor = match config.inference.enabled {
        true => Some(Predictor::start(config, Arc::clone(&catalogue))?),
        false => None,
    };
    let search = Search::new(
        store.clone(),
        &config.tables.predictions,
        predictor.clone(),
        Arc::clone(&pictures),
    );
    let labeller = match (store, config.topics.labels.as_str()) {
        (None, _) => Err("Questions are chosen from the tables: set `tables.url`."),
        (_, "") => Err("Answers go to a topic: set `topics.labels`."),
        (Some(store), _) => Ok(Labeller::new(config, store, Arc::clone(&catalogue))?),
    };
    let heat = Heat::new(predictor.clone(), Arc::clone(&pictures));
    let review = Review::new(
        labeller,
        Arc::clone(&catalogue),
        Arc::clone(&pictures),
        Arc::clone(&heat),
    );
    let studio = Studio::new(config, predictor.clone())?;
    let api = predictor.map_or_else(Router::new, api::routes);
    let routes = live::routes(board)
        .merge(api)
        .merge(studio::routes(studio))
        .merge(search::routes(search))
        .merge(review::routes(review))
        .merge(models::routes(catalogue))
        .merge(pictures::routes(pictures))
        .merge(heat::routes(heat))
        .merge(access::routes(Arc::clone(&access)))
        .merge(frame::routes())
        .fallback(nothing);
    Ok(routes.layer(from_fn_with_state(access, access::guard)))
}

async fn nothing() -> Response {
    frame::trouble(&Trouble {
        status: StatusCode::NOT_FOUND,
        what: "There is no such page",
        advice: "The head of each page leads to those there are.",
    })
}
