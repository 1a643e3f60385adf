//! Which partitions are read, and which are paused.

use super::Poller;
use crate::stage::source::held::Paused;
use crate::stage::source::{Generation, SourceError};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tagstream_core::events::PartitionId;

impl Poller {
    /// After a change of the assignment what others own is forgotten, and shares are made anew.
    fn share(&mut self) {
        let change = self.consumer.context().changes.load(Ordering::SeqCst);
        if self.shared_at_change == Some(change) {
            return;
        }
        self.shared_at_change = Some(change);
        let assigned = self.assigned();
        self.paused
            .retain(|p, generation| assigned.get(p) == Some(generation));
        self.held.retain(|p| assigned.contains_key(p));
        let partitions: Vec<PartitionId> = assigned.into_keys().collect();
        self.admission.share_among(&partitions);
    }

    pub(super) fn pause_or_resume(&mut self) -> Result<(), SourceError> {
        self.share();
        let now = Instant::now();
        let admission = &self.admission;
        let wanted = match self.held.to_pause(now, |p| admission.has_room(p)) {
            Paused::Only(partitions) if partitions.is_empty() && self.paused.is_empty() => {
                if self.reading {
                    return Ok(());
                }
                Paused::All
            }
            _ if !self.reading => Paused::All,
            wanted => wanted,
        };
        let assigned = self.assigned();
        let is_wanted = |partition: &PartitionId| match &wanted {
            Paused::All => true,
            Paused::Only(partitions) => partitions.contains(partition),
        };
        let pause: Vec<PartitionId> = assigned
            .keys()
            .filter(|p| is_wanted(p) && !self.paused.contains_key(*p))
            .cloned()
            .collect();
        let paused = self.paused.keys();
        let resume: Vec<PartitionId> = paused.filter(|p| !is_wanted(p)).cloned().collect();
        let fatal = |e: KafkaError| SourceError::Fatal(e.to_string());
        if !pause.is_empty() {
            self.consumer.pause(&list(&pause)).map_err(fatal)?;
        }
        if !resume.is_empty() {
            self.consumer.resume(&list(&resume)).map_err(fatal)?;
        }
        if pause.is_empty() && resume.is_empty() {
            return Ok(());
        }
        for partition in resume {
            self.held.note(now, &partition, false);
            self.paused.remove(&partition);
        }
        for partition in pause {
            self.held.note(now, &partition, true);
            let generation = assigned.get(&partition).copied();
            self.paused.extend(generation.map(|g| (partition, g)));
        }
        let topic = self.consumer.context().topic.to_string();
        metrics::gauge!("tagstream_source_paused", "topic" => topic).set(self.paused.len() as f64);
        Ok(())
    }

    fn assigned(&self) -> BTreeMap<PartitionId, Generation> {
        let context = self.consumer.context();
        let assigned = context.assigned.lock().expect("no panic while locked");
        assigned.iter().map(|(p, g)| (p.clone(), *g)).collect()
    }
}

fn list(partitions: &[PartitionId]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(&partition.topic, partition.partition);
    }
    list
}
