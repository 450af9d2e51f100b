//! The audit logs: whole, in order, and continued where they were left.

use futures_util::future::join_all;
use warifu_actors::store::{SignedHead, StoreError, WriterSettings};
use warifu_core::audit::{Hash, Tree, TreeHead};
use warifu_hsm::software::SoftwareSlot;
use warifu_hsm::{Hsm as _, Signature};

use crate::support::{AT_MS, EACH, done, everywhere, job, log, note, take, taken};

fn head(size: u64, mark: u8) -> SignedHead {
    SignedHead {
        head: TreeHead { log: "one".to_owned(), size, root: Hash([mark; 32]), at_ms: AT_MS as u64 },
        signature: Signature([mark; 64]),
        public_key: [4; 65],
        tree: None,
    }
}

#[tokio::test]
async fn records_stand_in_the_order_of_their_jobs() {
    everywhere(|stage| async move {
        let answers = (0..700_u64).map(|number| {
            let mut note = note();
            note.records[0].at_ms = number;
            stage.writer.submit(note)
        });
        let answers = join_all(answers.collect::<Vec<_>>()).await;
        assert!(answers.iter().all(Result::is_ok));
        let told = stage.check_log("one").await;
        assert_eq!(told.iter().map(|record| record.at_ms).collect::<Vec<_>>(), (0..700).collect::<Vec<_>>());
        let page = stage.store.records(&log("one"), 650, 20).await.unwrap();
        assert_eq!(page.iter().map(|record| record.seq).collect::<Vec<_>>(), (650..670).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn a_log_goes_on_where_the_last_process_left_it() {
    everywhere(|stage| async move {
        for round in 1..=6_u32 {
            let (other, writer) = stage.second("two").await;
            assert_eq!(writer.tree().borrow().tree.size(), u64::from(round - 1) * 3 * EACH as u64);
            for number in 0..3 {
                let request = format!("r{round}-{number}");
                taken(done(&writer, job(take(&request, 0, round * 3 + number, 1, 1))).await);
            }
            other.close().await;
        }
        assert_eq!(stage.check_log("two").await.len(), 18 * EACH);
        let logs: Vec<_> = stage.store.logs().await.unwrap();
        let sizes: Vec<_> = logs.iter().map(|(log, size)| (log.as_str(), *size)).collect();
        assert_eq!(sizes, [("cli", 6), ("one", 0), ("two", 18 * EACH as u64)]);
        assert_eq!(stage.store.tree(&log("nobody")).await.unwrap(), Tree::default());
    })
    .await;
}

#[tokio::test]
async fn the_newest_head_is_the_one_over_most_records() {
    everywhere(|stage| async move {
        assert!(stage.store.newest_head(&log("one")).await.unwrap().is_none());
        for (size, mark) in [(3, 1), (9, 2), (5, 3)] {
            stage.store.save_head(&head(size, mark)).await.unwrap();
        }
        assert!(stage.store.newest_head(&log("one")).await.unwrap() == Some(head(9, 2)));
        stage.store.save_head(&head(9, 4)).await.unwrap();
        assert!(stage.store.newest_head(&log("one")).await.unwrap() == Some(head(9, 4)));
        assert!(stage.store.newest_head(&log("two")).await.unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn a_frontier_that_does_not_fit_its_size_is_not_taken_up() {
    everywhere(|stage| async move {
        done(&stage.writer, note()).await.unwrap();
        stage.meddle("UPDATE audit_frontier SET size = 3 WHERE log = 'one'").await;
        let answer = stage.writer.submit(note()).await;
        assert!(matches!(answer, Err(StoreError::LogChanged(_))), "{answer:?}");
        let again = stage.store.start_writer(log("one"), WriterSettings::default()).await;
        assert!(matches!(again.err(), Some(StoreError::Corrupt("audit_frontier.frontier"))));
    })
    .await;
}

#[tokio::test]
async fn a_writer_goes_on_from_no_other_log_than_its_own() {
    everywhere(|stage| async move {
        for number in 1..=4 {
            taken(done(&stage.writer, job(take(&format!("r{number}"), 0, number, 1, 1))).await);
            taken(done(&stage.second("two").await.1, job(take(&format!("x{number}"), 1, number, 1, 1))).await);
        }
        let held = stage.writer.tree().borrow().clone();
        // A whole other log, with a frontier that fits it.
        stage.meddle("DELETE FROM audit_record WHERE log = 'one' AND seq >= 5").await;
        let mut rewritten = Tree::default();
        for record in stage.store.records(&log("one"), 0, 100).await.unwrap() {
            rewritten.append(record.leaf);
        }
        let frontier: String = rewritten.frontier().iter().map(ToString::to_string).collect();
        let hex = if stage.place.is_sqlite() { format!("X'{frontier}'") } else { format!("'\\x{frontier}'") };
        stage.meddle(&format!("UPDATE audit_frontier SET size = 5, frontier = {hex} WHERE log = 'one'")).await;
        assert_eq!(stage.store.tree(&log("one")).await.unwrap(), rewritten);
        for _ in 0..3 {
            let answer = stage.writer.submit(note()).await;
            assert!(matches!(answer, Err(StoreError::LogChanged(_))), "{answer:?}");
        }
        // Neither the tree that is signed nor the log has moved.
        let now = stage.writer.tree().borrow().clone();
        assert_eq!((now.tree, now.last_durable_at), (held.tree, None));
        assert_eq!(stage.store.tree(&log("one")).await.unwrap(), rewritten);
    })
    .await;
}

#[tokio::test]
async fn a_log_whose_frontier_was_removed_is_not_begun_again() {
    everywhere(|stage| async move {
        done(&stage.writer, note()).await.unwrap();
        stage.meddle("DELETE FROM audit_frontier WHERE log = 'one'").await;
        let answer = stage.writer.submit(note()).await;
        assert!(matches!(answer, Err(StoreError::LogChanged(_))), "{answer:?}");
        let again = stage.store.start_writer(log("one"), WriterSettings::default()).await;
        assert!(again.is_ok(), "no head was signed, so nothing can tell that there was a log");
    })
    .await;
}

#[tokio::test]
async fn a_log_that_is_not_the_signed_one_is_not_taken_over() {
    for (meddling, wanted) in [
        ("UPDATE audit_record SET record = '{}' WHERE log = 'one' AND seq = 1", "a record is not the one"),
        ("DELETE FROM audit_record WHERE log = 'one' AND seq = 1", "records are missing"),
        ("DELETE FROM audit_frontier WHERE log = 'one'", "it is shorter than its newest signed head"),
        ("UPDATE audit_head SET root = record.leaf FROM audit_record AS record WHERE record.seq = 0", "were signed"),
        (
            "UPDATE audit_frontier SET frontier = record.leaf FROM audit_record AS record WHERE record.seq = 0",
            "its frontier is not that of its records",
        ),
    ] {
        everywhere(|stage| async move {
            for _ in 0..4 {
                done(&stage.writer, note()).await.unwrap();
            }
            let tree = stage.writer.tree().borrow().tree.clone();
            let over = TreeHead { size: tree.size(), root: tree.root(), ..head(0, 0).head };
            stage.store.save_head(&SignedHead { head: over, ..head(0, 1) }).await.unwrap();
            let (other, _writer) = stage.second("one").await;
            other.close().await;
            stage.meddle(meddling).await;
            let refused = stage.store.start_writer(log("one"), WriterSettings::default()).await.err();
            let Some(StoreError::LogChanged(why)) = refused else { panic!("{meddling}: {refused:?}") };
            assert!(why.contains(wanted), "{meddling}: {why}");
        })
        .await;
    }
}

/// What is done to a log between two starts, and what the second start says of it: nothing where it goes on.
type Meddling = (&'static str, Option<&'static str>);

/// Four records, a head over them that an audit key has signed, two more records, meddling; then a writer that knows `key`
/// or the one that signed.
async fn after_a_signed_head(key: Option<[u8; 65]>, (meddling, wanted): Meddling) {
    everywhere(|stage| async move {
        let mut hsm = SoftwareSlot::new(Vec::new()).unwrap().session();
        for _ in 0..4 {
            done(&stage.writer, note()).await.unwrap();
        }
        let tree = stage.writer.tree().borrow().tree.clone();
        let over = TreeHead { size: tree.size(), root: tree.root(), ..head(0, 0).head };
        let signature = hsm.sign(&over.signed_bytes()).unwrap();
        let public_key = hsm.audit_public_key().unwrap();
        let signed = SignedHead { head: over, signature, public_key, tree: Some(tree) };
        stage.store.save_head(&signed).await.unwrap();
        assert!(stage.store.newest_head(&log("one")).await.unwrap() == Some(signed));
        for _ in 0..2 {
            done(&stage.writer, note()).await.unwrap();
        }
        stage.meddle(meddling).await;
        let settings = WriterSettings { audit_key: key.or(Some(public_key)), ..WriterSettings::default() };
        let again = stage.store.start_writer(log("one"), settings).await;
        match (wanted, again) {
            (None, Ok(writer)) => {
                assert_eq!(writer.tree().borrow().tree.size(), 6);
                done(&writer, note()).await.unwrap();
                assert_eq!(stage.store.tree(&log("one")).await.unwrap().size(), 7);
            }
            (Some(wanted), Err(StoreError::LogChanged(why))) => assert!(why.contains(wanted), "{meddling}: {why}"),
            (wanted, again) => panic!("{meddling}: {:?} instead of {wanted:?}", again.err()),
        }
    })
    .await;
}

const OLD_RECORD: &str = "UPDATE audit_record SET record = '{}' WHERE log = 'one' AND seq = 1";

#[tokio::test]
async fn what_the_audit_key_signed_is_not_hashed_again() {
    for meddling in [
        ("SELECT 1", None),
        (OLD_RECORD, None),
        ("UPDATE audit_record SET record = '{}' WHERE log = 'one' AND seq = 4", Some("a record is not the one")),
        ("DELETE FROM audit_record WHERE log = 'one' AND seq = 4", Some("records are missing")),
        // A head that nobody signed stands for nothing, whatever it says.
        ("UPDATE audit_head SET at_ms = at_ms + 1", Some("was not signed by the audit key")),
        (
            "UPDATE audit_head SET root = record.leaf FROM audit_record AS record WHERE record.seq = 0",
            Some("not signed"),
        ),
        ("UPDATE audit_head SET frontier = NULL", None),
    ] {
        after_a_signed_head(None, meddling).await;
    }
}

#[tokio::test]
async fn what_the_audit_key_did_not_sign_is_hashed_again() {
    for frontier in ["NULL", "record.leaf", "public_key"] {
        let meddling = format!(
            "UPDATE audit_head SET frontier = {frontier} FROM audit_record AS record WHERE record.seq = 0; {OLD_RECORD}"
        );
        after_a_signed_head(None, (meddling.leak(), Some("a record is not the one"))).await;
    }
    after_a_signed_head(Some([4; 65]), ("SELECT 1", None)).await;
    after_a_signed_head(Some([4; 65]), (OLD_RECORD, Some("a record is not the one"))).await;
}
