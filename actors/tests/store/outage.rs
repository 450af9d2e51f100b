//! The database goes away, refuses, is locked or loses its answer: nothing half-done stays, and the writer recovers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement, TransactionTrait as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use warifu_actors::store::job::{Outcome, Rejection};
use warifu_actors::store::{Answer, Store, StoreError, WriterSettings};

use crate::support::{
    EACH, Stage, count, done, everywhere, job, log, note, on_postgres, on_sqlite, paying, take, taken,
};

fn is_unavailable(answer: &Answer) -> bool {
    matches!(answer, Err(StoreError::Unavailable { .. }))
}

/// A trigger that refuses the rows of `table` for which `when` holds.
async fn refuse(stage: &Stage, outside: &DatabaseConnection, table: &str, when: &str) {
    let sql = if stage.place.is_sqlite() {
        format!(
            "CREATE TRIGGER refuse BEFORE INSERT ON {table} WHEN {when} BEGIN SELECT RAISE(ABORT, 'refused 4111'); END"
        )
    } else {
        format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE 'refused 4111'; END $$ \
             LANGUAGE plpgsql; CREATE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW WHEN ({when}) \
             EXECUTE FUNCTION refuse()"
        )
    };
    outside.execute_unprepared(&sql).await.unwrap();
}

async fn admit(stage: &Stage, outside: &DatabaseConnection, table: &str) {
    let on = if stage.place.is_sqlite() { String::new() } else { format!(" ON {table}") };
    outside.execute_unprepared(&format!("DROP TRIGGER refuse{on}")).await.unwrap();
}

#[tokio::test]
async fn an_audit_log_that_cannot_be_written_stops_everything() {
    everywhere(|stage| async move {
        let outside = stage.place.outside().await;
        taken(done(&stage.writer, job(take("r1", 0, 1, 1, 1))).await);
        assert!(stage.writer.tree().borrow().last_durable_at.is_some());
        refuse(&stage, &outside, "audit_record", "NEW.seq >= 0").await;
        let answers = join_all((2..10).map(|number| {
            stage.writer.submit(job(take(&format!("r{number}"), 0, number, u64::from(number), number.into())))
        }))
        .await;
        for answer in &answers {
            let Err(error @ StoreError::Refused { source }) = answer else { panic!("{answer:?}") };
            // What the database says may hold anything; nothing of it is passed on.
            assert!(!format!("{error} {error:?} {source}").contains("4111"));
        }
        assert_eq!(stage.writer.tree().borrow().last_durable_at, None);
        admit(&stage, &outside, "audit_record").await;
        // Nothing of it had happened: no counter was used, no request, no token.
        for number in 2..10 {
            let again = take(&format!("r{number}"), 0, number, u64::from(number), number.into());
            taken(done(&stage.writer, job(again)).await);
        }
        assert_eq!(stage.check_log("one").await.len(), 9 * EACH);
    })
    .await;
}

#[tokio::test]
async fn a_job_the_database_refuses_hurts_only_itself() {
    everywhere(|stage| async move {
        let outside = stage.place.outside().await;
        refuse(&stage, &outside, "request", "NEW.request_id = 'r7'").await;
        let answers = join_all((1..20).map(|number| {
            stage.writer.submit(job(take(&format!("r{number}"), 0, number, u64::from(number), number.into())))
        }))
        .await;
        assert_eq!(count(&answers, |answer| matches!(answer, Ok(Outcome::Taken(_)))), 18);
        assert!(matches!(answers[6], Err(StoreError::Refused { .. })), "{:?}", answers[6]);
        assert_eq!(stage.check_log("one").await.len(), 18 * EACH);
    })
    .await;
}

#[tokio::test]
async fn a_commit_that_is_refused_has_not_happened() {
    on_postgres(|stage| async move {
        let outside = stage.place.outside().await;
        let sql = "CREATE FUNCTION late() RETURNS trigger AS $$ BEGIN RAISE 'late'; END $$ LANGUAGE plpgsql; \
                   CREATE CONSTRAINT TRIGGER late AFTER INSERT ON request DEFERRABLE INITIALLY DEFERRED \
                   FOR EACH ROW EXECUTE FUNCTION late()";
        outside.execute_unprepared(sql).await.unwrap();
        let answer = stage.writer.submit(job(take("r1", 0, 1, 1, 1))).await;
        assert!(matches!(answer, Err(StoreError::Refused { .. })), "{answer:?}");
        outside.execute_unprepared("DROP TRIGGER late ON request").await.unwrap();
        taken(done(&stage.writer, job(take("r1", 0, 1, 1, 1))).await);
        assert_eq!(stage.check_log("one").await.len(), EACH);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_dies_during_the_commit_leaves_nothing_half_done() {
    on_postgres(|stage| async move {
        let outside = stage.place.outside().await;
        let sql = "CREATE FUNCTION die() RETURNS trigger AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); \
                   PERFORM pg_sleep(0.1); RETURN NULL; END $$ LANGUAGE plpgsql; \
                   CREATE CONSTRAINT TRIGGER die AFTER INSERT ON request DEFERRABLE INITIALLY DEFERRED \
                   FOR EACH ROW EXECUTE FUNCTION die()";
        outside.execute_unprepared(sql).await.unwrap();
        assert!(is_unavailable(&stage.writer.submit(job(take("r1", 0, 1, 1, 1))).await));
        outside.execute_unprepared("DROP TRIGGER die ON request").await.unwrap();
        taken(done(&stage.writer, job(take("r1", 0, 1, 1, 1))).await);
        assert_eq!(stage.check_log("one").await.len(), EACH);
    })
    .await;
}

#[tokio::test]
async fn an_impossible_row_hurts_only_who_needs_it() {
    everywhere(|stage| async move {
        let outside = stage.place.outside().await;
        outside.execute_unprepared("UPDATE device SET state = 'lost' WHERE id = 'pad-2'").await.unwrap();
        let answers =
            join_all((0..4).map(|number| stage.writer.submit(job(take(&format!("r{number}"), number, 1, 1, 1))))).await;
        assert_eq!(count(&answers, |answer| matches!(answer, Ok(Outcome::Taken(_)))), 3);
        assert!(matches!(answers[2], Err(StoreError::Corrupt("device.state"))), "{:?}", answers[2]);
    })
    .await;
}

#[tokio::test]
async fn broken_connections_are_replaced_unnoticed() {
    on_postgres(|stage| async move {
        for number in 1..6 {
            taken(done(&stage.writer, job(take(&format!("r{number}"), 0, number, 1, 1))).await);
            stage.place.server("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'").await;
        }
        assert_eq!(stage.check_log("one").await.len(), 5 * EACH);
    })
    .await;
}

#[tokio::test]
async fn a_database_that_is_away_is_told_and_used_again_when_it_is_back() {
    on_postgres(|stage| async move {
        taken(done(&stage.writer, job(take("r1", 0, 1, 1, 1))).await);
        stage.place.server("ALTER DATABASE {} ALLOW_CONNECTIONS false").await;
        stage.place.server("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'").await;
        let started = Instant::now();
        // Many batches, and none waits for the ones before it to find out the same.
        let waiting = (0..4000).map(|_| stage.writer.submit(note()));
        let answers = join_all(waiting.collect::<Vec<_>>()).await;
        assert!(answers.iter().all(is_unavailable));
        assert!(started.elapsed().as_secs() < 10, "it took {:?} to tell", started.elapsed());
        assert_eq!(stage.writer.tree().borrow().last_durable_at, None);
        assert!(stage.store.ping().await.is_err());
        stage.place.server("ALTER DATABASE {} ALLOW_CONNECTIONS true").await;
        for number in 2..100 {
            taken(done(&stage.writer, job(take(&format!("r{number}"), 0, number, 1, 1))).await);
        }
        assert_eq!(stage.check_log("one").await.len(), 99 * EACH);
    })
    .await;
}

#[tokio::test]
async fn a_lost_answer_to_a_commit_is_found_out() {
    on_postgres(|stage| async move {
        let wire = Wire::to(&stage.place.url).await;
        let store = Store::connect(&wire.url).await.unwrap();
        let writer = store.start_writer(log("two"), WriterSettings::default()).await.unwrap();
        taken(done(&writer, job(take("r0", 1, 1, 1, 1))).await);
        let (new, id) = paying(take("r1", 0, 1, 1, 1), "order");
        wire.lose_commit.store(true, Ordering::SeqCst);
        // It did happen, and whoever asked for it goes on with it: nobody else would.
        assert_eq!(taken(done(&writer, job(new.clone())).await).payment.unwrap().id, id);
        assert!(!wire.lose_commit.load(Ordering::SeqCst), "the commit went through the wire");
        assert!(writer.tree().borrow().last_durable_at.is_some());
        // Once: one payment, one record of it, and the tree that is signed is the one that is stored.
        assert_eq!(stage.store.open_payments(&log("two")).await.unwrap().len(), 1);
        assert_eq!(stage.check_log("two").await.len(), 2 * EACH);
        assert_eq!(writer.tree().borrow().tree, stage.store.tree(&log("two")).await.unwrap());
        let Ok(Outcome::Repeated(again)) = done(&writer, job(new)).await else { panic!("it had not happened") };
        assert_eq!(again.payment.unwrap().id, id);
        assert_eq!(done(&writer, job(take("r2", 0, 1, 1, 1))).await, Err(Rejection::Replayed));
        // The repetition and the replay have their frame's record, the replay its refusal too.
        assert_eq!(stage.check_log("two").await.len(), 2 * EACH + 1 + 2);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_commit_that_never_arrived_is_made_again_once() {
    on_postgres(|stage| async move {
        let wire = Wire::to(&stage.place.url).await;
        let store = Store::connect(&wire.url).await.unwrap();
        let writer = store.start_writer(log("two"), WriterSettings::default()).await.unwrap();
        taken(done(&writer, job(take("r0", 1, 1, 1, 1))).await);
        wire.swallow_commit.store(true, Ordering::SeqCst);
        taken(done(&writer, job(take("r1", 0, 1, 1, 1))).await);
        assert!(!wire.swallow_commit.load(Ordering::SeqCst), "the commit went into the wire");
        assert_eq!(stage.check_log("two").await.len(), 2 * EACH);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_commit_nobody_can_ask_about_is_told_and_taken_up_later() {
    on_postgres(|stage| async move {
        let wire = Wire::to(&stage.place.url).await;
        let store = Store::connect(&wire.url).await.unwrap();
        let writer = store.start_writer(log("two"), WriterSettings::default()).await.unwrap();
        let (new, id) = paying(take("r1", 0, 1, 1, 1), "order");
        wire.lose_commit.store(true, Ordering::SeqCst);
        wire.cut_after.store(true, Ordering::SeqCst);
        let answer = writer.submit(job(new)).await;
        assert!(is_unavailable(&answer), "{answer:?}");
        wire.cut.store(false, Ordering::SeqCst);
        // The commit had happened: the writer goes on from what it attempted, and the payment is there to be found.
        taken(done(&writer, job(take("r2", 0, 2, 1, 1))).await);
        assert_eq!(stage.check_log("two").await.len(), 2 * EACH);
        assert_eq!(stage.store.open_payments(&log("two")).await.unwrap()[0].id, id);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_row_somebody_keeps_locked_hurts_only_who_needs_it() {
    on_postgres(|stage| async move {
        let outside = stage.place.outside().await;
        let lock = outside.begin().await.unwrap();
        lock.execute_unprepared("SELECT * FROM device WHERE id = 'pad-2' FOR UPDATE").await.unwrap();
        let started = Instant::now();
        let answers = (0..200_u32).map(|number| {
            let device = u8::try_from(number % 4).unwrap();
            stage.writer.submit(job(take(&format!("r{number}"), device, 1 + number, 1, 1)))
        });
        let answers = join_all(answers.collect::<Vec<_>>()).await;
        for (number, answer) in answers.iter().enumerate() {
            if number % 4 == 2 {
                let Err(StoreError::Unavailable { source }) = answer else { panic!("{answer:?}") };
                assert_eq!(source.code(), Some("55P03"));
            } else {
                assert!(matches!(answer, Ok(Ok(Outcome::Taken(_)))), "{answer:?}");
            }
        }
        assert!(started.elapsed().as_secs() < 5, "it took {:?}", started.elapsed());
        lock.rollback().await.unwrap();
        taken(done(&stage.writer, job(take("r2", 2, 3, 1, 1))).await);
        assert_eq!(stage.check_log("one").await.len(), 151 * EACH);
    })
    .await;
}

#[tokio::test]
async fn a_lone_job_that_fails_tells_nothing_to_those_who_wait() {
    on_postgres(|stage| async move {
        let settings = WriterSettings { max_batch: 1, queue: 100, ..WriterSettings::default() };
        let writer = stage.store.start_writer(log("two"), settings).await.unwrap();
        let outside = stage.place.outside().await;
        let lock = outside.begin().await.unwrap();
        lock.execute_unprepared("SELECT * FROM device WHERE id = 'pad-2' FOR UPDATE").await.unwrap();
        let stuck = writer.submit(job(take("r0", 2, 1, 1, 1)));
        let waiting: Vec<_> =
            (1..20).map(|number| writer.submit(job(take(&format!("r{number}"), 0, number, 1, 1)))).collect();
        assert!(is_unavailable(&stuck.await));
        let answers = join_all(waiting).await;
        assert_eq!(count(&answers, |answer| matches!(answer, Ok(Outcome::Taken(_)))), 19);
        lock.rollback().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn connections_that_fall_silent_are_left_behind() {
    on_postgres(|stage| async move {
        let wire = Wire::to(&stage.place.url).await;
        let store = Store::connect(&wire.url).await.unwrap();
        let writer = store.start_writer(log("two"), WriterSettings::default()).await.unwrap();
        taken(done(&writer, job(take("r1", 0, 1, 1, 1))).await);
        // Several connections of each kind, so that more than one has to be given up.
        join_all((0..8).map(|_| store.tree(writer.log()))).await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        wire.silent.store(wire.made.load(Ordering::SeqCst), Ordering::SeqCst);
        let started = Instant::now();
        let reads = join_all((0..20).map(|_| store.tree(writer.log()))).await;
        assert!(reads.iter().all(|tree| tree.as_ref().is_ok_and(|tree| tree.size() == EACH as u64)), "{reads:?}");
        assert!(started.elapsed() < Duration::from_secs(12), "reads took {:?}", started.elapsed());
        store.ping().await.unwrap();
        let started = Instant::now();
        taken(done(&writer, job(take("r2", 0, 2, 1, 1))).await);
        assert!(started.elapsed() < Duration::from_secs(12), "writing took {:?}", started.elapsed());
        assert_eq!(stage.check_log("two").await.len(), 2 * EACH);
    })
    .await;
}

#[tokio::test]
async fn a_read_that_takes_too_long_is_given_up() {
    on_postgres(|stage| async move {
        let outside = stage.place.outside().await;
        let lock = outside.begin().await.unwrap();
        lock.execute_unprepared("LOCK TABLE device IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let started = Instant::now();
        let read = stage.store.devices().await;
        assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
        assert!(started.elapsed() < Duration::from_secs(6), "it took {:?}", started.elapsed());
        lock.rollback().await.unwrap();
        assert_eq!(stage.store.devices().await.unwrap().len(), 4);
    })
    .await;
}

/// A TCP connection to the database that can lose things.
struct Wire {
    url: String,
    /// The next commit arrives, and its answer does not.
    lose_commit: AtomicBool,
    /// The next commit does not arrive.
    swallow_commit: AtomicBool,
    /// After the next lost answer nobody gets through any more.
    cut_after: AtomicBool,
    /// Nobody gets through.
    cut: AtomicBool,
    /// Connections made so far.
    made: AtomicUsize,
    /// So many of the first connections stay open and carry nothing any more.
    silent: AtomicUsize,
}

impl Wire {
    async fn to(url: &str) -> Arc<Self> {
        let (scheme, rest) = url.split_once('@').unwrap();
        let (host, database) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Arc::new(Self {
            url: format!("{scheme}@{}/{database}", listener.local_addr().unwrap()),
            lose_commit: AtomicBool::new(false),
            swallow_commit: AtomicBool::new(false),
            cut_after: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            made: AtomicUsize::new(0),
            silent: AtomicUsize::new(0),
        });
        let (host, relays) = (host.to_owned(), Arc::clone(&wire));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if relays.cut.load(Ordering::SeqCst) {
                    continue;
                }
                let server = TcpStream::connect(&host).await.unwrap();
                tokio::spawn(relay(client, server, Arc::clone(&relays)));
            }
        });
        wire
    }
}

async fn relay(mut client: TcpStream, mut server: TcpStream, wire: Arc<Wire>) {
    let (mut asked, mut said) = ([0; 16384], [0; 16384]);
    let number = wire.made.fetch_add(1, Ordering::SeqCst);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(len @ 1..) = read else { return };
                if number < wire.silent.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                let commit = asked[..len].windows(6).any(|text| text == b"COMMIT");
                if wire.cut.load(Ordering::SeqCst) || commit && wire.swallow_commit.swap(false, Ordering::SeqCst) {
                    return;
                }
                if server.write_all(&asked[..len]).await.is_err() {
                    return;
                }
                if commit && wire.lose_commit.swap(false, Ordering::SeqCst) {
                    if wire.cut_after.swap(false, Ordering::SeqCst) {
                        wire.cut.store(true, Ordering::SeqCst);
                    }
                    // The server has carried it out once it answers; the client never hears of it.
                    server.readable().await.unwrap();
                    return;
                }
            }
            read = server.read(&mut said) => {
                let Ok(len @ 1..) = read else { return };
                if client.write_all(&said[..len]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_file_locked_by_another_process_is_told_and_written_when_it_is_free() {
    on_sqlite(|stage| async move {
        let outside = stage.place.outside().await;
        outside.execute_unprepared("BEGIN IMMEDIATE").await.unwrap();
        assert!(is_unavailable(&stage.writer.submit(note()).await));
        // Whoever only reads is not disturbed.
        assert_eq!(stage.store.records(&log("one"), 0, 10).await.unwrap(), []);
        outside.execute_unprepared("ROLLBACK").await.unwrap();
        assert_eq!(done(&stage.writer, note()).await, Ok(Outcome::Noted));
        assert_eq!(stage.check_log("one").await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_was_answered_survives_a_store_that_is_never_closed() {
    everywhere(|stage| async move {
        for number in 1..=50 {
            taken(done(&stage.writer, job(take(&format!("r{number}"), 0, number, 1, 1))).await);
        }
        let outside = stage.place.outside().await;
        let backend = outside.get_database_backend();
        let sql = "SELECT count(*) AS n FROM audit_record WHERE log = 'one'";
        let row = outside.query_one_raw(Statement::from_string(backend, sql)).await.unwrap().unwrap();
        assert_eq!(row.try_get::<i64>("", "n").unwrap(), 50 * EACH as i64);
    })
    .await;
}
