use super::*;
use std::sync::atomic::AtomicUsize;
use tokio::sync::watch;

/// Longer than any test.
const WAIT: Duration = Duration::from_secs(600);
const SHORT_PAUSES: Pauses = Pauses {
    first: Duration::from_millis(2),
    longest: Duration::from_millis(30),
    longest_asked: Duration::from_millis(120),
};

fn trouble(tried_last: bool) -> Tried {
    Tried {
        since: None,
        tried_last,
    }
}

#[tokio::test]
async fn one_message_at_a_time_tries_and_the_first_answer_lets_all_go_on() {
    let outages = Outages::with_pauses(WAIT, SHORT_PAUSES);
    let place = outages.place("http://a:80", true);
    place.failed(false, None, "refused");
    // It answers the twelfth that tries.
    let (asked, tries) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let messages = (0..50).map(|_| {
        let (place, asked) = (Arc::clone(&place), Arc::clone(&asked));
        let tries = Arc::clone(&tries);
        tokio::spawn(async move {
            let mut tried = false;
            loop {
                let pass = place.pass(trouble(tried), &Leave::never()).await.unwrap();
                if !pass.is_trial {
                    return tried;
                }
                assert_eq!(asked.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                tokio::time::sleep(Duration::from_millis(1)).await;
                asked.fetch_sub(1, Ordering::SeqCst);
                tried = true;
                if tries.fetch_add(1, Ordering::SeqCst) == 11 {
                    place.answered(None);
                    return tried;
                }
                place.failed(true, None, "refused");
                pass.done();
            }
        })
    });
    let messages: Vec<_> = messages.collect();
    while tries.load(Ordering::SeqCst) < 6 {
        tokio::task::yield_now().await;
    }
    let open = outages.open();
    assert_eq!((open.len(), open[0].place.as_str()), (1, "http://a:80"));
    assert!(open[0].waiting >= 49 && !open[0].given_up, "{open:?}");
    let mut tried = 0;
    for message in messages {
        tried += usize::from(message.await.unwrap());
    }
    assert_eq!(outages.open(), []);
    assert_eq!(tries.load(Ordering::SeqCst), 12);
    assert!(tried > 1, "not always the same one tries");
}

#[tokio::test]
async fn after_its_time_a_place_is_given_up_but_still_tried() {
    let wait = Duration::from_millis(100);
    let outages = Outages::with_pauses(wait, SHORT_PAUSES);
    let place = outages.place("s3://b", true);
    place.failed(false, None, "silent");
    let (mut given_up, mut tried) = (0, 0);
    while given_up < 20 || tried < 20 {
        match place.pass(trouble(true), &Leave::never()).await {
            Ok(pass) => {
                assert!(pass.is_trial);
                place.failed(true, None, "silent");
                pass.done();
                tried += 1;
            }
            Err(NoPass::GivenUp { lasted, reason }) => {
                assert!(lasted >= wait && reason == "silent");
                given_up += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(NoPass::Left) => panic!("nobody asked"),
        }
    }
    assert!(outages.open()[0].given_up);
    place.answered(None);
    assert!(
        !place
            .pass(trouble(true), &Leave::never())
            .await
            .unwrap()
            .is_trial
    );
}

#[tokio::test]
async fn whoever_is_asked_to_leave_does_so_and_another_tries() {
    let outages = Outages::with_pauses(WAIT, SHORT_PAUSES);
    let place = outages.place("a", true);
    place.failed(false, None, "down");
    let (ask, asked) = watch::channel(false);
    let leave = Leave::new(asked);
    let waits = place.pass(trouble(false), &leave);
    let asks = async {
        ask.send_replace(true);
    };
    let (left, ()) = tokio::join!(waits, asks);
    assert_eq!(left.unwrap_err(), NoPass::Left);
    // One that tries and is dropped, as with a partition that is lost, keeps nobody from trying.
    let pass = place.pass(trouble(false), &Leave::never()).await.unwrap();
    assert!(pass.is_trial);
    drop(pass);
    let pass = place.pass(trouble(false), &Leave::never()).await.unwrap();
    assert!(pass.is_trial);
    drop(ask);
    assert_eq!(
        place.pass(trouble(false), &leave).await.unwrap_err(),
        NoPass::Left,
        "nobody is left to ask"
    );
}

#[tokio::test]
async fn a_pause_that_a_server_asks_for_is_kept_within_reason() {
    let outages = Outages::with_pauses(WAIT, SHORT_PAUSES);
    let asked = [
        (60, 60),
        (86_400_000, SHORT_PAUSES.longest_asked.as_millis()),
    ];
    for (asked, kept) in asked {
        let place = outages.place(&format!("a{asked}"), true);
        let started = Instant::now();
        place.failed(false, Some(Duration::from_millis(asked)), "429");
        let pass = place.pass(trouble(false), &Leave::never()).await.unwrap();
        pass.done();
        assert!(started.elapsed().as_millis() >= kept, "{asked}");
    }
}

#[test]
fn places_are_bounded_and_those_that_are_waited_for_stay() {
    let outages = Outages::with_pauses(WAIT, SHORT_PAUSES);
    let down = outages.place("down", true);
    down.failed(false, None, "refused");
    for n in 0..2 * MOST_PLACES {
        outages.place(&format!("host-{n}"), true);
    }
    assert!(lock(&outages.places).len() <= MOST_PLACES);
    assert!(Arc::ptr_eq(&down, &outages.place("down", true)));
    down.answered(Some("http://down/a"));
    assert_eq!(down.answered_address("http://down/a"), None);
    assert_eq!(
        down.answered_address("http://down/b").as_deref(),
        Some("http://down/a")
    );
    down.answered(Some(&"x".repeat(LONGEST_ADDRESS + 1)));
    assert_eq!(down.answered_address("http://down/a"), None);
}

#[test]
fn a_host_that_nobody_lists_and_that_never_answered_is_waited_for_less() {
    let outages = Outages::with_pauses(WAIT, SHORT_PAUSES);
    assert_eq!(outages.place("listed", true).wait(), WAIT);
    let unknown = outages.place("unknown", false);
    assert_eq!(unknown.wait(), WAIT / 10);
    unknown.answered(None);
    assert_eq!(unknown.wait(), WAIT);
}
