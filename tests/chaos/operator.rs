//! What only a person can decide: a topic created again, and retention that overtook the stages.
//! The stages must refuse to go on by themselves; then the operator does what their message says.

use crate::checker::Verdict;
use crate::world::{IMAGES, Stage};
use crate::{Arena, PATIENCE, world};
use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use rand::rngs::StdRng;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
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
        let partitions: Vec<i32> = (0..self.options.partitions).collect();
        self.operate(&partitions, "--new-epoch", "=earliest", verdict)
            .await
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
        self.heal().await?;
        for stage in &mut self.stages {
            stage.kill()?;
        }
        self.stages.clear();
        self.produce(MESSAGES, dice).await?;
        self.checker.refresh(verdict).await?;
        let ends = self.checker.ends();
        let mut gaps = Vec::new();
        let mut list = TopicPartitionList::new();
        for partition in 0..self.options.partitions {
            let (_, end) = ends.get(&partition).copied().unwrap_or((0, 0));
            let incarnation = self.producer.incarnation;
            let of_it = self.producer.produced.values();
            let high = of_it
                .filter(|p| p.incarnation == incarnation && p.partition == partition)
                .map(|p| p.offset + 1)
                .max()
                .unwrap_or(0);
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
        self.checker.refresh(verdict).await?;
        let (seen, incarnation) = (self.checker.images(), self.producer.incarnation);
        self.producer.excuse(&seen, |p| {
            p.incarnation == incarnation
                && gaps
                    .iter()
                    .any(|(partition, low)| p.partition == *partition && p.offset < *low)
        });
        self.replenish()?;
        if !self.refused("--accept-gap", verdict).await? {
            return Ok(());
        }
        let partitions: Vec<i32> = gaps.iter().map(|(partition, _)| *partition).collect();
        self.operate(&partitions, "--accept-gap", "", verdict).await
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
            let log = self.launcher.once("asks", &["--until-drained".into()])?;
            named = std::fs::read_to_string(log)?.contains(flag);
            if !named && started.elapsed() > PATIENCE {
                verdict.wrong += 1;
                verdict.note(format!("no stage ever asked for {flag}"));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Does what the message said, for each partition at the end of its files.
    async fn operate(
        &mut self,
        partitions: &[i32],
        flag: &str,
        suffix: &str,
        verdict: &mut Verdict,
    ) -> Result<()> {
        let started = Instant::now();
        let mut left: Vec<i32> = partitions.to_vec();
        // A late put may move an end between the look and the act: then the stage says so, and
        // changes nothing.
        while !left.is_empty() {
            ensure!(
                started.elapsed() < 2 * PATIENCE,
                "the operator got nowhere with partitions {left:?}"
            );
            self.checker.refresh(verdict).await?;
            let ends = self.checker.ends();
            let mut arguments = vec!["--until-drained".to_string()];
            for partition in &left {
                let (_, end) = ends.get(partition).copied().unwrap_or((0, 0));
                arguments.extend([flag.into(), format!("{IMAGES}/{partition}@{end}{suffix}")]);
            }
            let log = self.launcher.once("operator", &arguments)?;
            let text = std::fs::read_to_string(&log)?;
            let done = |partition: i32| {
                let name = format!("{IMAGES}/{partition} ");
                let mut lines = text.lines().filter(|l| {
                    l.contains("the next epoch begins") || l.contains("was ended before")
                });
                lines.any(|l| format!("{l} ").contains(&name))
            };
            for partition in left.iter().copied().filter(|p| done(*p)) {
                let (epoch, _) = ends.get(&partition).copied().unwrap_or((0, 0));
                self.epochs.insert(partition, epoch + 1);
            }
            left.retain(|p| !done(*p));
        }
        self.replenish()
    }
}

fn says(stage: &Stage, flag: &str) -> Result<bool> {
    Ok(std::fs::read_to_string(&stage.log)?.contains(flag))
}
