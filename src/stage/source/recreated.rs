//! A topic that is deleted and created again while it is read.

use crate::stage::sink::chain::TopicIdentity;
use std::time::Duration;

/// Ends when the topic is no longer the one that it was when first asked. A consumer whose topic
/// was created again may get neither messages nor an error (its knowledge of the leaders is newer
/// than the new topic's), and would be silent for ever.
pub async fn recreated<A>(ask: impl Fn() -> A, every: Duration)
where
    A: Future<Output = Option<TopicIdentity>>,
{
    let mut first: Option<TopicIdentity> = None;
    loop {
        if let Some(now) = ask().await {
            let first = first.get_or_insert_with(|| now.clone());
            if first.contradicts(&now) {
                return;
            }
        }
        tokio::time::sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn identity(topic: Option<&str>) -> Option<TopicIdentity> {
        Some(TopicIdentity {
            cluster_id: Some("cluster".into()),
            topic_id: topic.map(Into::into),
        })
    }

    #[tokio::test]
    async fn a_topic_created_again_while_nothing_arrives_is_noticed() {
        let answers = [
            identity(Some("a")),
            None,
            identity(Some("a")),
            identity(Some("b")),
        ];
        let next = AtomicUsize::new(0);
        let ask = || {
            let answer = answers[next.fetch_add(1, Ordering::SeqCst)].clone();
            async move { answer }
        };
        recreated(ask, Duration::ZERO).await;
        assert_eq!(next.load(Ordering::SeqCst), answers.len());
    }

    #[tokio::test]
    async fn brokers_that_do_not_answer_or_know_no_ids_are_no_new_topic() {
        let next = AtomicUsize::new(0);
        let ask = || {
            let n = next.fetch_add(1, Ordering::SeqCst);
            async move { [identity(Some("a")), None, identity(None)][n % 3].clone() }
        };
        let asked_often = async {
            while next.load(Ordering::SeqCst) < 100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = recreated(ask, Duration::ZERO) => panic!("taken for a new topic"),
            () = asked_often => {}
        }
    }
}
