use super::*;

fn question(image: usize, category: &str) -> Question {
    Question {
        image_id: format!("image-{image}"),
        uri: format!("s3://b/{image}"),
        category: category.into(),
        score: 0.5,
        purpose: QuestionPurpose::Learning,
        place: None,
    }
}

fn desk() -> Desk {
    let mut desk = Desk::new(Duration::from_secs(60));
    let questions = (0..4).flat_map(|i| [question(i, "cat"), question(i, "dog")]);
    desk.refill(Order::Mixed, questions);
    desk
}

const YES: Answer = Answer::Known(LabelState::Present);

fn ask(desk: &mut Desk, seat: &str, now: Instant) -> Option<(String, String)> {
    desk.show(seat, Order::Mixed, now)
        .map(|shown| shown.question.key())
}

fn pair(image: usize, category: &str) -> Option<(String, String)> {
    Some((format!("image-{image}"), category.into()))
}

#[test]
fn two_people_are_never_asked_the_same() {
    let (mut desk, now) = (desk(), Instant::now());
    let mut asked = Vec::new();
    // They come and go as they like; nobody waits for the other.
    for step in 0..8 {
        let seats = if step % 3 == 0 {
            ["a", "b"]
        } else {
            ["b", "a"]
        };
        for seat in seats {
            if let Some(question) = ask(&mut desk, seat, now) {
                asked.push(question);
                desk.take(seat, YES);
            }
        }
    }
    let all: HashSet<_> = asked.iter().cloned().collect();
    assert_eq!((asked.len(), all.len()), (8, 8));
    assert_eq!(ask(&mut desk, "a", now), None);
}

#[test]
fn a_picture_is_held_while_somebody_looks_at_it_and_then_given_to_others() {
    let (mut desk, now) = (desk(), Instant::now());
    assert_eq!(ask(&mut desk, "a", now), pair(0, "cat"));
    assert_eq!(
        ask(&mut desk, "a", now),
        pair(0, "cat"),
        "until it is answered"
    );
    assert_eq!(ask(&mut desk, "b", now), pair(1, "cat"));
    desk.leave("a");
    assert_eq!(ask(&mut desk, "c", now), pair(0, "cat"));
    let later = now + Duration::from_secs(61);
    assert_eq!(ask(&mut desk, "d", later), pair(0, "cat"), "c fell asleep");
    assert_eq!(
        ask(&mut desk, "c", later),
        pair(1, "cat"),
        "and was overtaken"
    );
}

#[test]
fn back_next_and_undo_lead_where_they_say() {
    let (mut desk, now) = (desk(), Instant::now());
    for _ in 0..2 {
        ask(&mut desk, "a", now);
        desk.take("a", YES);
    }
    ask(&mut desk, "a", now);
    desk.take("a", Answer::Passed);
    assert_eq!(ask(&mut desk, "a", now), pair(1, "dog"));
    desk.back("a");
    let shown = desk.show("a", Order::Mixed, now).unwrap();
    assert_eq!(shown.answer, Some(Answer::Passed));
    desk.back("a");
    desk.take("a", Answer::Known(LabelState::Absent));
    desk.take("a", Answer::Passed);
    assert_eq!(ask(&mut desk, "a", now), pair(1, "dog"), "forward again");
    assert_eq!(
        desk.last_answer("a").unwrap().key(),
        pair(0, "dog").unwrap()
    );
    desk.undo("a");
    assert_eq!(
        ask(&mut desk, "a", now),
        pair(0, "dog"),
        "it is asked again"
    );
    desk.undo("a");
    assert_eq!(ask(&mut desk, "a", now), pair(0, "cat"));
    assert_eq!(desk.last_answer("a"), None);
    desk.undo("a");
    assert_eq!(
        ask(&mut desk, "b", now),
        pair(1, "cat"),
        "what a passed, b may know"
    );
}

#[test]
fn what_was_added_can_be_taken_back() {
    let (mut desk, now) = (desk(), Instant::now());
    ask(&mut desk, "a", now);
    desk.added("a", question(0, "owl"));
    assert_eq!(
        ask(&mut desk, "a", now),
        pair(0, "cat"),
        "the question stays"
    );
    assert_eq!(
        desk.last_answer("a").unwrap().key(),
        pair(0, "owl").unwrap()
    );
    desk.undo("a");
    assert_eq!(desk.last_answer("a"), None);
}

#[test]
fn what_was_answered_is_not_asked_again_after_questions_were_chosen_anew() {
    let (mut desk, now) = (desk(), Instant::now());
    ask(&mut desk, "a", now);
    desk.take("a", YES);
    desk.refill(Order::Value, [question(0, "cat"), question(3, "owl")]);
    assert_eq!(desk.left(Order::Value), 1);
    let shown = desk.show("a", Order::Value, now).unwrap();
    assert_eq!(shown.question.key(), pair(3, "owl").unwrap());
}

#[test]
fn only_what_is_shown_can_be_answered_and_no_time_comes_twice() {
    let (mut desk, now) = (desk(), Instant::now());
    ask(&mut desk, "a", now);
    assert!(desk.shown("a", "image-0", Some("cat")).is_some());
    assert!(desk.shown("a", "image-0", None).is_some());
    assert!(desk.shown("a", "image-0", Some("dog")).is_none());
    assert!(desk.shown("a", "image-1", Some("cat")).is_none());
    assert!(desk.shown("b", "image-0", Some("cat")).is_none());
    desk.take("nobody", YES);
    let same = Utc::now();
    let times = [
        desk.time(same),
        desk.time(same),
        desk.time(same - TimeDelta::hours(1)),
    ];
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
}

#[test]
fn a_grid_asks_one_category_of_pictures_that_are_before_nobody_else() {
    let (mut desk, now) = (desk(), Instant::now());
    let (wanted, order) = (("cat", 2), Order::Mixed);
    assert_eq!(desk.open_categories(order)["cat"], 4);
    let images = |grid: &[Question]| -> Vec<String> {
        assert!(grid.iter().all(|question| question.category == "cat"));
        grid.iter()
            .map(|question| question.image_id.clone())
            .collect()
    };
    let first = desk.show_grid("a", order, wanted, now);
    assert_eq!(images(&first), ["image-0", "image-1"]);
    let second = desk.show_grid("b", order, ("cat", 9), now);
    assert_eq!(images(&second), ["image-2", "image-3"]);
    assert_eq!(
        ask(&mut desk, "c", now),
        None,
        "all pictures are before somebody"
    );
    // The same again for whoever loads the page again.
    assert_eq!(desk.show_grid("a", order, wanted, now), first);
    assert_eq!(desk.of_grid("a", "image-2"), None, "that is the other's");
    let said = |desk: &Desk, answers: &[(&str, Answer)]| -> Vec<(Question, Answer)> {
        let all = answers.iter();
        all.filter_map(|(image, answer)| Some((desk.of_grid("a", image)?, *answer)))
            .collect()
    };
    let answers = said(
        &desk,
        &[
            ("image-0", YES),
            ("image-1", Answer::Passed),
            ("image-3", YES),
        ],
    );
    assert_eq!(answers.len(), 2, "what was not shown is not answered");
    desk.take_grid("a", answers);
    assert_eq!(desk.of_grid("a", "image-0"), None);
    assert_eq!(desk.open_categories(order)["cat"], 3);
    assert_eq!(
        desk.show_grid("a", order, wanted, now),
        [],
        "passed over, or the other's"
    );
    // The last answer is taken back, and asked again.
    assert_eq!(desk.last_answer("a"), Some(question(0, "cat")));
    desk.undo("a");
    assert_eq!(
        images(&desk.show_grid("a", order, wanted, now)),
        ["image-0"]
    );
    // Whoever stays away loses what was held.
    let later = now + Duration::from_secs(61);
    assert_eq!(
        images(&desk.show_grid("d", order, ("cat", 9), later)).len(),
        4
    );
}
