//! Hostile input through message, fetch and decode: each flaw ends under its own kind, and what is
//! good passes.

use crate::common::garbage::Yard;
use std::collections::BTreeSet;
use tagstream::stage::budget::Budget;
use tagstream::stage::fetch::Fetcher;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_core::events::{DeadLetterKind, ImageReference};
use tagstream_image::decoders::Decoders;
use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};

async fn outcome(
    message: &[u8],
    fetcher: &Fetcher,
    decoders: &Decoders,
    budget: &Budget,
) -> Result<(), (DeadLetterKind, String)> {
    let reference = ImageReference::from_json(message)
        .map_err(|e| (DeadLetterKind::BadMessage, e.to_string()))?;
    let fetched = fetcher
        .fetch(&reference.uri, budget)
        .await
        .map_err(|e| (e.kind(), e.to_string()))?;
    let preprocessing = Preprocessing {
        height: 32,
        width: 32,
        fit: Fit::Squash,
        filter: Filter::Bicubic,
    };
    let mut pixels = vec![0; 32 * 32 * 3];
    let bytes = fetched.body.load().unwrap();
    // As the stage does it, whose task is not held up meanwhile.
    let decoded =
        tokio::task::block_in_place(|| decoders.decode_into(&bytes, &preprocessing, &mut pixels));
    decoded.map(drop).map_err(|e| {
        let kind = tagstream::stage::decoding::dead_letter_kind(e.fault());
        (kind.expect("there is a decoder"), e.to_string())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flaw_ends_under_its_own_kind() {
    let yard = Yard::start().await;
    let fetcher = Fetcher::new(&yard.fetch_config(), &ObjectStoreConfig::default()).unwrap();
    let decoders = tagstream::stage::decoding::decoders(&yard.decode_config());
    let budget = Budget::new(16 << 20);
    let items = yard.items();
    let names: BTreeSet<&str> = items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(names.len(), items.len(), "a name is used twice");
    assert!(items.len() >= 30);
    let outcomes = futures::future::join_all(
        items
            .iter()
            .map(|item| outcome(&item.message, &fetcher, &decoders, &budget)),
    )
    .await;
    let mut failures = Vec::new();
    for (item, outcome) in items.iter().zip(outcomes) {
        match outcome {
            Err((kind, message)) if kind == item.kind => {
                println!(
                    "{:40} {kind:16} {}",
                    item.name,
                    &message[..message.len().min(150)]
                );
                assert!(message.len() < 1200, "{}: a message without end", item.name);
            }
            other => failures.push(format!("{}: {other:?}, not {}", item.name, item.kind)),
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(budget.used_bytes(), 0, "a reservation was lost");
    // All kinds are covered but the model's own, that of hosts that are down, and what ends the
    // process.
    use DeadLetterKind::{Inference, Outage, Poison};
    for kind in DeadLetterKind::ALL {
        let elsewhere = [Inference, Outage, Poison].contains(kind);
        assert!(
            elsewhere || items.iter().any(|item| item.kind == *kind),
            "no item is {kind}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_good_passes_the_same_rules() {
    let yard = Yard::start().await;
    let fetcher = Fetcher::new(&yard.fetch_config(), &ObjectStoreConfig::default()).unwrap();
    let decoders = tagstream::stage::decoding::decoders(&yard.decode_config());
    let budget = Budget::new(16 << 20);
    for (name, message) in yard.good() {
        assert_eq!(
            outcome(&message, &fetcher, &decoders, &budget).await,
            Ok(()),
            "{name}"
        );
    }
    assert_eq!(budget.used_bytes(), 0);
}
