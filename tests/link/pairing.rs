//! Pairing: what makes two sites peers, and each refusal by name.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use standbyfs::link::Invitation;
use standbyfs::vocab::Result;

fn invite(site: &Site) -> Invitation {
    site.link.invite(vec!["127.0.0.1".into()]).unwrap()
}

fn refusal<T>(result: Result<T>) -> &'static str {
    match result {
        Ok(_) => panic!("wasn't refused"),
        Err(error) => error.name().unwrap_or_else(|| panic!("no name: {error}")),
    }
}

#[test]
fn a_token_makes_two_sites_peers_and_a_connection_follows() {
    let (a, b) = (Site::start(1), Site::start(2));
    let text = invite(&a).to_text();
    let token = Invitation::parse(&text).unwrap();
    let peer = b.link.accept(&token).unwrap();
    assert_eq!(peer, Peer { addresses: vec!["127.0.0.1".into()], ..a.me.clone() });
    assert_eq!(b.book.peers(), [peer]);
    assert_eq!(a.book.peers(), std::slice::from_ref(&b.me), "with the address it came from");
    let (at_a, at_b) = (a.settled(), b.settled());
    assert_eq!((at_a.peer(), at_b.peer()), (b.me.store, a.me.store));
    at_a.send(b"hello".to_vec(), LONG).unwrap();
    at_b.send(b"world".to_vec(), LONG).unwrap();
    assert_eq!(at_b.recv(LONG).unwrap().unwrap(), b"hello");
    assert_eq!(at_a.recv(LONG).unwrap().unwrap(), b"world");
}

#[test]
fn a_token_is_used_up_by_one_site_which_may_repeat_it() {
    let (a, b, c) = (Site::start(1), Site::start(2), Site::start(3));
    let token = invite(&a);
    b.link.accept(&token).unwrap();
    assert_eq!(refusal(c.link.accept(&token)), "token-used");
    assert!(c.book.peers().is_empty() && a.book.peers().len() == 1);
    // The answer to the first time was lost: the same site may try again, after the expiry too.
    b.book.forget(a.me.store);
    b.clock.move_days(-1);
    a.clock.move_days(5);
    b.link.accept(&token).unwrap();
    // Once forgotten, not even that site.
    a.book.forget(b.me.store);
    a.link.refresh();
    assert_eq!(refusal(b.link.accept(&token)), "token-revoked");
    b.link.accept(&invite(&a)).unwrap();
}

#[test]
fn an_expired_token_is_refused_by_either_clock() {
    let (a, b) = (Site::start(1), Site::start(2));
    let token = invite(&a);
    b.clock.move_days(5);
    assert_eq!(refusal(b.link.accept(&token)), "token-expired");
    b.clock.move_days(-5);
    a.clock.move_days(5);
    assert_eq!(refusal(b.link.accept(&token)), "token-expired");
    a.clock.move_days(-1);
    b.link.accept(&token).unwrap();
}

/// The same token with other fields, its checksum right.
fn forged(token: &Invitation, edit: impl FnOnce(&mut serde_json::Value)) -> Invitation {
    let mut json = serde_json::to_value(token).unwrap();
    edit(&mut json);
    let body = URL_SAFE_NO_PAD.encode(json.to_string());
    let sum = crc32c::crc32c(body.as_bytes());
    Invitation::parse(&format!("standbyfs-pair-1.{body}.{sum:08x}")).unwrap()
}

#[test]
fn a_guessed_secret_an_unknown_token_and_another_key_are_refused() {
    let (a, b, c) = (Site::start(1), Site::start(2), Site::start(3));
    let token = invite(&a);
    let guess = forged(&token, |t| t["secret"] = "A".repeat(43).into());
    assert_eq!(refusal(b.link.accept(&guess)), "token-wrong");
    let unknown = forged(&token, |t| t["id"] = "0".repeat(32).into());
    assert_eq!(refusal(b.link.accept(&unknown)), "token-unknown");
    let other_key = forged(&token, |t| t["fingerprint"] = c.me.fingerprint.to_string().into());
    assert_eq!(refusal(b.link.accept(&other_key)), "fingerprint-mismatch");
    let other_store = forged(&token, |t| t["store"] = c.me.store.to_string().into());
    assert_eq!(refusal(b.link.accept(&other_store)), "identity-conflict");
    assert!(a.book.peers().is_empty() && b.book.peers().is_empty());
    assert!(a.book.tokens().iter().all(|t| t.used_by.is_none()));
    b.link.accept(&token).unwrap();
}

/// A machine between the sites that holds the token's text but not its secret's holder's channel: what it
/// relays is bound to another channel. Here: the token of one site shown to another that copied its tokens.
#[test]
fn a_site_that_copied_the_tokens_but_not_the_key_can_not_stand_in() {
    let (a, b, copy) = (Site::start(1), Site::start(2), Site::start(1));
    let token = invite(&a);
    a.book.tokens().iter().for_each(|t| copy.book.add_token(t).unwrap());
    let port = copy.address.port();
    assert_eq!(refusal(b.link.accept(&forged(&token, |t| t["port"] = port.into()))), "fingerprint-mismatch");
    assert!(copy.book.peers().is_empty());
}

#[test]
fn a_site_is_not_paired_with_itself() {
    let a = Site::start(1);
    assert_eq!(refusal(a.link.accept(&invite(&a))), "self-pairing");
    // A copy of the store with a key of its own, and one with the same key.
    let copy = Site::start(1);
    assert_eq!(refusal(copy.link.accept(&invite(&a))), "self-pairing");
    let honest = forged(&invite(&a), |t| t["store"] = "9".repeat(32).into());
    assert!(["self-pairing", "identity-conflict"].contains(&refusal(copy.link.accept(&honest))));
    assert!(a.book.peers().is_empty() && copy.book.peers().is_empty());
}

#[test]
fn a_name_that_another_peer_has_is_refused_at_both_sides_before_anything_is_kept() {
    let (a, b) = (Site::start(1), Site::start(2));
    let mut twin = settings(3);
    twin.name = "site2".into();
    let twin = Site::with(twin);
    b.link.accept(&invite(&a)).unwrap();
    assert_eq!(refusal(twin.link.accept(&invite(&a))), "name-taken");
    let d = Site::start(4);
    d.link.accept(&invite(&b)).unwrap();
    assert_eq!(refusal(d.link.accept(&invite(&twin))), "name-taken");
    assert!(twin.book.peers().is_empty(), "the other side hasn't pinned either");
    assert_eq!(a.book.peers().len(), 1);
}

#[test]
fn versions_that_do_not_fit_are_refused_by_name_at_both_sides() {
    let a = Site::start(1);
    let mut strict = settings(2);
    strict.required = vec!["levitation".into()];
    let b = Site::with(strict);
    assert_eq!(refusal(b.link.accept(&invite(&a))), "version-mismatch");
    assert!(a.book.peers().is_empty());
    // The same between sites that were paired before one of them was updated.
    a.knows(&b, Some(b.address));
    b.knows(&a, None);
    eventually("the dialling side names the mismatch", || {
        a.status(&b).dial.refusal == Some("version-mismatch")
    });
    let said = a.status(&b).dial.last_error.unwrap();
    assert!(said.contains("levitation") && said.contains("Update"), "{said}");
    assert!(b.link.next_connection(Duration::from_millis(50)).is_none());
}

#[test]
fn a_stranger_gets_no_connection_whether_tokens_are_open_or_not() {
    let (a, stranger) = (Site::start(1), Site::start(2));
    stranger.knows(&a, Some(a.address));
    eventually("refused in the handshake", || stranger.status(&a).dial.refusal == Some("not-paired"));
    invite(&a);
    let before = stranger.status(&a).dial.failures;
    eventually("tried again", || stranger.status(&a).dial.failures > before + 2);
    assert_eq!(stranger.status(&a).dial.refusal, Some("not-paired"));
    assert!(a.link.next_connection(Duration::from_millis(50)).is_none());
    assert!(stranger.link.next_connection(Duration::ZERO).is_none());
    a.knows(&stranger, None);
    assert_eq!(a.next().peer(), stranger.me.store, "the control: as a peer it gets one");
}

#[test]
fn a_peer_with_another_key_is_refused_from_either_side() {
    let (a, b, other) = (Site::start(1), Site::start(2), Site::start(2));
    // b's place is taken by another key.
    a.book.pin(&Peer { addresses: vec![other.address.to_string()], ..b.me.clone() }).unwrap();
    other.knows(&a, None);
    a.link.refresh();
    eventually("named", || a.status(&b).dial.refusal == Some("fingerprint-mismatch"));
    // The other key dials a, which has pinned b's.
    other.book.pin(&Peer { addresses: vec![a.address.to_string()], ..a.me.clone() }).unwrap();
    eventually("named", || other.status(&a).dial.refusal == Some("not-paired"));
    assert!(a.link.next_connection(Duration::from_millis(50)).is_none());
    assert!(other.link.next_connection(Duration::ZERO).is_none());
}

#[test]
fn nothing_is_invited_while_nothing_listens() {
    let link = Link::start(
        settings(1),
        Identity::generate().unwrap(),
        Arc::new(MemoryBook::default()),
        Arc::new(SystemClock),
        Arc::new(SystemEntropy),
    )
    .unwrap();
    assert_eq!(refusal(link.invite(vec!["127.0.0.1".into()])), "not-listening");
}
