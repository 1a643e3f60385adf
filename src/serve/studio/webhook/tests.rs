use super::*;
use tagstream_core::events::LabelState;
use tagstream_train::labels::LabelTable;

fn time(second: u32) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(i64::from(second))
}

fn says(key: &str, second: u32, present: &[&str], absent: &[&str]) -> AnnotationNotice {
    let names = |all: &[&str]| all.iter().map(|name| name.to_string()).collect();
    AnnotationNotice {
        key: key.into(),
        time: time(second),
        event: Some(LabelEvent {
            present: names(present),
            absent: names(absent),
            annotator: format!("of {key}"),
            event_time: Some(time(second)),
            ..LabelEvent::about("a", "s3://b/a.jpg")
        }),
    }
}

/// Annotations of one picture, and what the topic has of them.
#[derive(Default)]
struct Told {
    picture: PictureMemory,
    topic: Vec<LabelEvent>,
}

impl Told {
    fn take(&mut self, change: Option<Change>) -> usize {
        let Some(change) = change else {
            return 0;
        };
        for event in &change.events {
            event.validate().unwrap();
        }
        self.topic.extend(change.events.iter().cloned());
        self.picture = change.after;
        change.events.len()
    }

    fn tell(&mut self, notice: &AnnotationNotice) -> usize {
        let mut picture = self.picture.clone();
        picture.image_id = "a".into();
        self.take(changed(picture, notice))
    }

    fn delete(&mut self, key: &str, second: u32) -> usize {
        self.take(gone(self.picture.clone(), key, time(second)))
    }

    /// What the label table makes of the topic.
    fn known(&self) -> Vec<(String, LabelState)> {
        let table = LabelTable::of_events(&self.topic);
        let known = table
            .known()
            .map(|(_, name, state)| (name.to_owned(), state));
        known.collect()
    }
}

fn known(present: &[&str], absent: &[&str]) -> Vec<(String, LabelState)> {
    let with = |names: &[&str], state| -> Vec<(String, LabelState)> {
        names.iter().map(|name| (name.to_string(), state)).collect()
    };
    let mut all = with(present, LabelState::Present);
    all.extend(with(absent, LabelState::Absent));
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn what_is_changed_or_deleted_is_taken_back() {
    let mut told = Told::default();
    assert_eq!(told.tell(&says("1", 10, &["cat", "dog"], &["owl"])), 1);
    assert_eq!(told.known(), known(&["cat", "dog"], &["owl"]));
    assert_eq!(told.tell(&says("1", 20, &["cat"], &["dog"])), 1);
    assert_eq!(told.known(), known(&["cat"], &["dog"]));
    let cancelled = AnnotationNotice {
        event: None,
        ..says("1", 30, &[], &[])
    };
    assert_eq!(told.tell(&cancelled), 1);
    assert_eq!(told.known(), []);
    told.tell(&says("1", 40, &["cow"], &[]));
    // The other's clock is ahead of this one.
    assert_eq!(told.delete("1", 5), 1);
    assert_eq!(told.known(), []);
    let last = told.topic.last().unwrap();
    assert_eq!(
        (last.annotator.as_str(), &last.retract[..]),
        ("of 1", &["cow".to_owned()][..])
    );
}

#[test]
fn a_notice_that_comes_again_or_late_changes_nothing() {
    let mut told = Told::default();
    let (first, second) = (says("1", 10, &["cat"], &[]), says("1", 20, &["dog"], &[]));
    assert_eq!((told.tell(&first), told.tell(&first)), (1, 0));
    assert_eq!(
        (told.tell(&second), told.tell(&first), told.tell(&second)),
        (1, 0, 0)
    );
    assert_eq!(told.known(), known(&["dog"], &[]));
    assert_eq!((told.delete("1", 30), told.delete("1", 31)), (1, 0));
    assert_eq!(
        (told.tell(&second), told.tell(&says("1", 40, &["dog"], &[]))),
        (0, 0)
    );
    assert_eq!(told.known(), []);
    assert_eq!(told.delete("2", 50), 0, "nobody knows of it");
}

#[test]
fn what_another_annotation_says_too_is_said_by_it_then() {
    let mut told = Told::default();
    told.tell(&says("1", 10, &["cat", "dog"], &[]));
    told.tell(&says("2", 20, &["dog"], &["cat"]));
    told.tell(&says("3", 15, &["dog"], &["owl"]));
    assert_eq!(told.known(), known(&["dog"], &["cat", "owl"]));
    assert_eq!(told.delete("2", 30), 2);
    assert_eq!(told.known(), known(&["cat", "dog"], &["owl"]));
    let by: Vec<&str> = told.topic[3..]
        .iter()
        .map(|e| e.annotator.as_str())
        .collect();
    assert_eq!(
        by,
        ["of 1", "of 3"],
        "the latest of those that still say it"
    );
    assert_eq!(told.delete("1", 40), 2);
    assert_eq!(told.known(), known(&["dog"], &["owl"]));
    assert_eq!(told.delete("3", 50), 1);
    assert_eq!(told.known(), []);
}

/// The process dies between remembering and sending, or before the broker's answer is remembered.
#[test]
fn whatever_may_have_been_said_is_taken_back_by_the_next_notice() {
    for sent in [false, true] {
        let mut told = Told::default();
        told.tell(&says("1", 10, &["cat"], &[]));
        let change = changed(told.picture.clone(), &says("1", 20, &["dog"], &[])).unwrap();
        if sent {
            told.topic.extend(change.events.clone());
        }
        told.picture = change.before.clone();
        let mut again = Told {
            picture: change.before,
            topic: told.topic.clone(),
        };
        assert_eq!(
            again.tell(&says("1", 20, &["dog"], &[])),
            1,
            "the same notice again"
        );
        assert_eq!(again.known(), known(&["dog"], &[]));
        assert_eq!(told.delete("1", 30), 1);
        assert_eq!(told.known(), [], "sent: {sent}");
    }
}
