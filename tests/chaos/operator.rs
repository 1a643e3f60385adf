//! What only a person can decide: a topic created again, retention that overtook the stages, a
//! group's offset that was moved. The stages must refuse to go on by themselves; then the operator
//! runs the commands that they print, as they print them.

use crate::checker::Verdict;
use crate::world::{IMAGES, Stage};
use crate::{Arena, PATIENCE, world};
use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use rand::rngs::StdRng;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::time::{Duration, Instant};

const MESSAGES: usize = 60;

impl Arena {
    /// Deletes the images topic and creates it again, with new messages, while the stages run.
    pub(super) async fn recreate_topic(
        &mut self,
        dice: &mut StdRng,
        verdict: &mut Verdict,
    ) -> Result<()> {
        self.heal().await?;
        let admin = self.admin()?;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        for result in admin.delete_topics(&[IMAGES], &options).await? {
            result.map_err(|(topic, error)| anyhow::anyhow!("{topic} was not deleted: {error}"))?;
        }
        self.create_again(&admin, &options).await?;
        // What was not in a file when the topic went may be in one, if a stage had read it, or is
        // gone with it.
        self.checker.refresh(verdict).await?;
        let (seen, incarnation) = (self.checker.images(), self.producer.incarnation);
        self.producer
            .excuse(&seen, |p| p.incarnation == incarnation);
        self.producer.begin_incarnation()?;
        self.produce(MESSAGES, dice).await?;
        if !self.refused("--new-epoch", verdict).await? {
            return Ok(());
        }
        self.operate(&["--new-epoch"]).await
    }

    async fn create_again(
        &self,
        admin: &AdminClient<DefaultClientContext>,
        options: &AdminOptions,
    ) -> Result<()> {
        let replication = TopicReplication::Fixed(self.options.brokers as i32);
        let topic = NewTopic::new(IMAGES, self.options.partitions, replication);
        let started = Instant::now();
        // Deletion is not done when it is answered.
        while started.elapsed() < PATIENCE {
            match admin.create_topics([&topic], options).await?.pop() {
                Some(Ok(_)) => return Ok(()),
                Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                other => bail!("{IMAGES} was not created again: {other:?}"),
            }
        }
        bail!("{IMAGES} could not be created again: it is still there")
    }

    /// Kills all stages, and deletes messages that none of them has read.
    pub(super) async fn overtake(
        &mut self,
        dice: &mut StdRng,
        verdict: &mut Verdict,
    ) -> Result<()> {
        self.messages_that_nobody_reads(dice, verdict).await?;
        let ends = self.checker.ends();
        let mut gaps = Vec::new();
        let mut list = TopicPartitionList::new();
        for partition in 0..self.options.partitions {
            let (_, end) = ends.get(&partition).copied().unwrap_or((0, 0));
            let high = self.high(partition);
            // Puts in flight when their stages died may still land, and then there is no gap.
            if high > end + 1 && gaps.len() < 2 && dice.random_bool(0.5) {
                let low = dice.random_range(end + 1..high);
                list.add_partition_offset(IMAGES, partition, Offset::Offset(low))?;
                gaps.push((partition, low));
            }
        }
        if gaps.is_empty() {
            return self.replenish();
        }
        self.admin()?
            .delete_records(&list, &AdminOptions::new())
            .await
            .context("deleting records")?;
        self.excuse_below(&gaps, verdict).await?;
        self.replenish()?;
        if !self.refused("--accept-gap", verdict).await? {
            return Ok(());
        }
        self.operate(&["--accept-gap"]).await
    }

    /// Kills all stages, and moves the group's offset of a partition, or two: back, where messages
    /// would be read again, or ahead, where some would be skipped.
    pub(super) async fn move_offsets(
        &mut self,
        dice: &mut StdRng,
        verdict: &mut Verdict,
    ) -> Result<()> {
        self.messages_that_nobody_reads(dice, verdict).await?;
        let ends = self.checker.ends();
        let starts = self.checker.starts();
        let skip = dice.random_bool(0.5);
        let mut list = TopicPartitionList::new();
        let mut moved = Vec::new();
        for partition in 0..self.options.partitions {
            let (epoch, end) = ends.get(&partition).copied().unwrap_or((0, 0));
            let high = self.high(partition);
            let to = match skip {
                // Puts in flight when their stages died may still land, and move the end.
                true if high > end + 1 => dice.random_range(end + 1..high),
                false if end > 0 => dice.random_range(0..end),
                _ => continue,
            };
            let is_a_file_s_end = starts.contains(&(partition, epoch, to));
            if moved.len() < 2 && !is_a_file_s_end && dice.random_bool(0.5) {
                list.add_partition_offset(IMAGES, partition, Offset::Offset(to))?;
                moved.push((partition, to));
            }
        }
        if moved.is_empty() {
            return self.replenish();
        }
        self.commit(&list).await?;
        self.replenish()?;
        if !self.refused("--restore-offset", verdict).await? {
            return Ok(());
        }
        if !skip {
            return self.operate(&["--restore-offset"]).await;
        }
        self.operate(&["--new-epoch", "--restore-offset"]).await?;
        self.excuse_below(&moved, verdict).await
    }

    /// Kills all stages, and sends messages.
    async fn messages_that_nobody_reads(
        &mut self,
        dice: &mut StdRng,
        verdict: &mut Verdict,
    ) -> Result<()> {
        self.heal().await?;
        for stage in &mut self.stages {
            stage.kill()?;
        }
        self.stages.clear();
        self.produce(MESSAGES, dice).await?;
        self.checker.refresh(verdict).await
    }

    /// Excuses what lies before these offsets and is in no file.
    async fn excuse_below(&mut self, offsets: &[(i32, i64)], verdict: &mut Verdict) -> Result<()> {
        self.checker.refresh(verdict).await?;
        let (seen, incarnation) = (self.checker.images(), self.producer.incarnation);
        self.producer.excuse(&seen, |p| {
            let is_before = |&(partition, offset)| p.partition == partition && p.offset < offset;
            p.incarnation == incarnation && offsets.iter().any(is_before)
        });
        Ok(())
    }

    /// The offset after the last message of a partition.
    fn high(&self, partition: i32) -> i64 {
        let incarnation = self.producer.incarnation;
        let of_it = self.producer.produced.values();
        of_it
            .filter(|p| p.incarnation == incarnation && p.partition == partition)
            .map(|p| p.offset + 1)
            .max()
            .unwrap_or(0)
    }

    /// Commits offsets of the stages' group, which must have lost its members first.
    async fn commit(&self, list: &TopicPartitionList) -> Result<()> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.servers.bootstrap)
            .set("group.id", world::GROUP)
            .create()?;
        let started = Instant::now();
        while let Err(error) = consumer.commit(list, CommitMode::Sync) {
            ensure!(started.elapsed() < PATIENCE, "the offsets stay: {error}");
            world::pause().await;
        }
        Ok(())
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(ClientConfig::new()
            .set("bootstrap.servers", &self.servers.bootstrap)
            .create()?)
    }

    /// Waits until every stage has ended by itself, and one has named the flag that helps.
    async fn refused(&mut self, flag: &str, verdict: &mut Verdict) -> Result<bool> {
        let started = Instant::now();
        let mut named = false;
        while !self.stages.is_empty() {
            if started.elapsed() > PATIENCE {
                verdict.wrong += 1;
                verdict.note(format!(
                    "{} goes on where it should have refused",
                    self.stages[0].name
                ));
                return Ok(false);
            }
            let mut running = Vec::new();
            for mut stage in self.stages.drain(..) {
                // One may have stopped itself since.
                stage.wake()?;
                match stage.ended()? {
                    None => running.push(stage),
                    Some(status) => {
                        if status.code().is_none() {
                            verdict.unexpected += 1;
                            verdict.note(format!("{} ended with {status}", stage.name));
                        }
                        ensure!(
                            !status.success(),
                            "{} ended as if all were well",
                            stage.name
                        );
                        named |= says(&stage, flag)?;
                    }
                }
            }
            self.stages = running;
            world::pause().await;
        }
        while !named {
            // They noticed that something was wrong; the next start has to say what.
            let (_, log) = self.launcher.once("asks", &["--until-drained".into()])?;
            named = log.contains(flag);
            if !named && started.elapsed() > PATIENCE {
                verdict.wrong += 1;
                verdict.note(format!("no stage ever asked for {flag}"));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Does what the messages say, one after the other, until a stage reads everything. Of several
    /// commands that are printed for one partition the first of `flags` is taken.
    async fn operate(&mut self, flags: &[&str]) -> Result<()> {
        let started = Instant::now();
        let mut arguments = vec!["--until-drained".to_string()];
        // A late put may move an end between the look and the act: then the stage says so, changes
        // nothing, and prints another command when it is started without.
        loop {
            let (status, text) = self.launcher.once("operator", &arguments)?;
            let begun = |partition: i32| {
                let name = format!("{IMAGES}/{partition} ");
                let mut lines = text.lines().filter(|l| l.contains("the next epoch begins"));
                lines.any(|l| format!("{l} ").contains(&name))
            };
            for partition in (0..self.options.partitions).filter(|p| begun(*p)) {
                let epoch = self.epochs.entry(partition).or_default();
                *epoch += 1;
            }
            if status.success() {
                return self.replenish();
            }
            ensure!(
                started.elapsed() < 2 * PATIENCE,
                "the operator got nowhere: {text}"
            );
            match printed(&text, flags) {
                Some((flag, order)) => arguments.extend([flag, order]),
                None => arguments.truncate(1),
            }
            world::pause().await;
        }
    }
}

/// The command that a refusal prints: the first of `flags` that it names, and its value.
fn printed(text: &str, flags: &[&str]) -> Option<(String, String)> {
    let refusal = text
        .lines()
        .rev()
        .find(|l| l.contains("tagstream run --"))?;
    flags.iter().find_map(|flag| {
        let (_, rest) = refusal.split_once(&format!("tagstream run {flag} "))?;
        let order = rest.split_whitespace().next()?;
        Some((flag.to_string(), order.to_string()))
    })
}

fn says(stage: &Stage, flag: &str) -> Result<bool> {
    Ok(std::fs::read_to_string(&stage.log)?.contains(flag))
}
