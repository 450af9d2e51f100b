//! Links: who is connected, and what they hear.

use std::time::Duration;

use warifu_core::device::State;
use warifu_core::merchant::DeviceId;

use super::support::{CARD, caller, eventually, play};
use crate::directory::Announce;
use crate::house::{Actor, News};
use crate::record::Kind;

#[test]
fn a_module_hears_that_a_device_of_its_merchant_changed() {
    play(|scene, _, _| async move {
        let mut mine = scene.house.link(&caller(1), "pos 1.0".to_owned()).await.unwrap();
        let mut other = scene.house.link(&caller(2), "pos 1.0".to_owned()).await.unwrap();
        scene.caused(Kind::ModuleLinked, "pos 1.0").await;
        let id = DeviceId::parse("keypad-1").unwrap();
        // The directory must have seen the device once to see a change.
        let mut states = [State::Suspended, State::Active].into_iter().cycle();
        let heard = eventually("the news", async || {
            let state = states.next().unwrap();
            scene.set_device(&id, state).await;
            let news = tokio::time::timeout(Duration::from_secs(4), mine.next()).await.ok()?;
            Some((news, state))
        });
        let (news, state) = heard.await;
        assert_eq!(news, Some(News::DeviceChanged { device: id.clone(), state }));
        let silent = tokio::time::timeout(Duration::from_millis(50), other.next()).await;
        assert!(silent.is_err(), "another merchant's module heard of it");
    });
}

#[test]
fn the_newest_link_of_a_module_closes_an_older_one() {
    play(|scene, _, _| async move {
        let mut older = scene.house.link(&caller(1), String::new()).await.unwrap();
        let newer = scene.house.link(&caller(1), String::new()).await.unwrap();
        assert_eq!(older.next().await, None);
        scene.caused(Kind::ModuleUnlinked, "a newer link of the module took its place").await;
        drop(newer);
        scene.caused(Kind::ModuleUnlinked, "the module closed it").await;
    });
}

#[test]
fn the_link_of_a_module_that_is_blocked_is_closed() {
    play(|scene, _, _| async move {
        let mut link = scene.house.link(&caller(1), String::new()).await.unwrap();
        scene.registry().block_module(&caller(1).module, 2).await.unwrap();
        assert_eq!(link.next().await, None);
        scene.caused(Kind::ModuleUnlinked, "the module was blocked").await;
        // One that was identified before, and says only now that it wants a link.
        let mut late = scene.house.link(&caller(1), String::new()).await.unwrap();
        assert_eq!(late.next().await, None);
    });
}

#[test]
fn a_link_survives_a_panic_of_the_directory() {
    play(|scene, _, keypad| async move {
        let mut link = scene.house.link(&caller(1), String::new()).await.unwrap();
        scene.house.panic_next(Actor::Directory, &caller(1)).await;
        assert!(scene.tokenize("r1", keypad.seal(1, CARD)).await.is_err());
        scene.tokenize("r2", keypad.seal(2, CARD)).await.unwrap();
        // The link registers itself with the new directory by and by.
        let news = News::Draining { retry_after: Duration::from_secs(1) };
        let heard = eventually("the news", async || {
            scene.house.0.gates.directory.ask(Announce(news.clone())).await.unwrap();
            tokio::time::timeout(Duration::from_millis(10), link.next()).await.ok()
        });
        assert_eq!(heard.await, Some(news.clone()));
    });
}

#[test]
fn a_draining_house_tells_its_links_and_takes_no_new_ones() {
    play(|scene, _, _| async move {
        let mut link = scene.house.link(&caller(1), String::new()).await.unwrap();
        scene.house.drain(Duration::from_secs(1)).await;
        assert_eq!(link.next().await, Some(News::Draining { retry_after: Duration::from_secs(1) }));
        assert!(scene.house.link(&caller(2), String::new()).await.is_err());
    });
}
