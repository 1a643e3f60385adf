//! The page of models, and deciding on it.

use super::Served;
use tagstream_model::registry::{Action, Decision};

#[tokio::test]
async fn versions_and_decisions_stand_on_the_page_as_text() {
    let served = Served::start(|_, _| {}).await;
    let list = served.get("/models", &[]).await;
    assert_eq!(list.status, 200);
    // What somebody wrote as a reason is shown, and is no markup.
    let shown = "&lt;script&gt;alert(1)&lt;/script&gt;&quot; onload=&quot;x";
    assert!(list.body.contains(shown), "{}", list.body);
    assert!(!list.body.contains("<script>alert"), "{}", list.body);
    assert!(list.body.contains("version 1 serves") && list.body.contains("begin"));
    let one = served.get("/models/2", &[]).await;
    assert!(
        one.body.contains(shown) && one.body.contains("encoder.onnx"),
        "{}",
        one.body
    );
    let both = served.get("/models/compare?a=1&b=2", &[]).await;
    assert_eq!(both.status, 200);
    assert!(
        both.body.contains("the same"),
        "the files are: {}",
        both.body
    );
    assert_eq!(served.get("/models/3", &[]).await.status, 404);
}

#[tokio::test]
async fn a_version_is_promoted_and_rolled_back_with_a_reason() {
    let served = Served::start(|config, _| config.access.local_name = "operator".into()).await;
    let token = served.form_token("/models", &[]).await;
    let decide = async |action: &str, version: &str, generation: &str, why: &str| {
        let fields = [
            ("form_token", token.as_str()),
            ("action", action),
            ("version", version),
            ("generation", generation),
            ("why", why),
        ];
        served.post("/models/decide", &[], &fields).await
    };
    for (action, version, why, status) in [
        ("promote", "2", "", 422),
        ("promote", "2", "   ", 422),
        ("promote", "two", "x", 422),
        ("delete", "2", "x", 422),
        ("promote", "9", "x", 404),
    ] {
        let answer = decide(action, version, "1", why).await;
        assert_eq!(
            answer.status, status,
            "{action} {version} {why:?}: {}",
            answer.body
        );
    }
    assert_eq!(served.serving().await, 1);
    assert_eq!(
        decide("promote", "2", "1", "better <b>tags</b>")
            .await
            .status,
        303
    );
    assert_eq!(served.serving().await, 2);
    let page = served.get("/models", &[]).await.body;
    assert!(
        page.contains("version 2 serves"),
        "what was read before is not shown again"
    );
    assert!(page.contains("better &lt;b&gt;tags"), "{page}");
    assert!(page.contains("Roll back to version 1"), "{page}");
    assert_eq!(decide("roll_back", "1", "2", "worse").await.status, 303);
    let history = served.registry.history().await.unwrap();
    let last = history.last().unwrap();
    assert_eq!((last.action, last.version), (Action::RolledBack, 1));
    assert_eq!(
        (last.who.as_str(), last.why.as_str()),
        ("operator", "worse")
    );
}

#[tokio::test]
async fn a_decision_over_what_is_not_so_any_more_changes_nothing() {
    let served = Served::start(|_, _| {}).await;
    let token = served.form_token("/models", &[]).await;
    // Somebody else decides between looking and pressing.
    let other = Decision::by_hand(Action::Promoted, 2, "the job", "better");
    served.registry.decide(other).await.unwrap();
    let answer = served.promote(&[], &token).await;
    assert_eq!(answer.status, 409);
    assert!(
        answer.body.contains("the job moved the pointer meanwhile"),
        "{}",
        answer.body
    );
    assert_eq!(served.registry.history().await.unwrap().len(), 2);
}

#[tokio::test]
async fn pages_tell_what_does_not_answer() {
    let served = Served::start(|config, folder| {
        config.registry.url = folder.join("nowhere").to_str().unwrap().into();
        config.stages.addresses = vec!["127.0.0.1:9".into()];
    })
    .await;
    let live = served.get("/", &[]).await;
    assert_eq!(live.status, 200);
    assert!(
        live.body.contains("The registry does not answer"),
        "{}",
        live.body
    );
    let models = served.get("/models", &[]).await;
    assert_eq!(models.status, 502);
    let review = served.get("/review", &[]).await;
    assert!(review.body.contains("tables.url"), "{}", review.body);
}
