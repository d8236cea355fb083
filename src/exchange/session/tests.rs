use super::*;

struct End {
    session: Session,
    tokens: Tokens,
    ready: bool,
    closed: Option<&'static str>,
    inbox: Vec<Control>,
}

fn local(n: u8, tokens: Tokens, nonce: u8) -> LocalSite {
    LocalSite {
        site: StoreId([n; 16]),
        name: format!("site-{n}"),
        features: vec!["fills".into(), format!("only-{n}")],
        peer: StoreId([3 - n; 16]),
        tokens,
        nonce: Token([nonce; 16]),
        accept_once: false,
    }
}

fn end(local: LocalSite) -> (End, Vec<Control>) {
    let tokens = local.tokens;
    let (session, effects) = Session::new(local);
    let mut end = End { session, tokens, ready: false, closed: None, inbox: Vec::new() };
    let sent = end.apply(effects, usize::MAX);
    (end, sent)
}

impl End {
    /// Carries effects out; `stores` are carried out at most so often, then the site dies.
    fn apply(&mut self, effects: Vec<SessionEffect>, mut stores: usize) -> Vec<Control> {
        let mut sent = Vec::new();
        let mut todo: std::collections::VecDeque<_> = effects.into();
        while let Some(effect) = todo.pop_front() {
            match effect {
                SessionEffect::Send(control) => sent.push(control),
                SessionEffect::Store(tokens) if stores > 0 => {
                    stores -= 1;
                    self.tokens = tokens;
                    todo.extend(self.session.step(SessionEvent::Stored));
                }
                SessionEffect::Store(_) => break,
                SessionEffect::Ready { .. } => self.ready = true,
                SessionEffect::Close { name, .. } => self.closed = Some(name),
            }
        }
        sent
    }
}

/// Runs both ends; each carries out so many stores at most. Gives what both have stored.
fn meet(a: LocalSite, b: LocalSite, stores: [usize; 2]) -> [End; 2] {
    let ((mut a, to_b), (mut b, to_a)) = (end(a), end(b));
    (a.inbox, b.inbox) = (to_a, to_b);
    let mut left = stores;
    for _ in 0..20 {
        for (side, (me, other)) in [(&mut a, &mut b)].into_iter().enumerate() {
            step(me, other, &mut left[side]);
            step(other, me, &mut left[1]);
        }
    }
    [a, b]
}

fn step(me: &mut End, other: &mut End, left: &mut usize) {
    for control in std::mem::take(&mut me.inbox) {
        if me.closed.is_some() {
            return;
        }
        let before = me.tokens;
        let effects = me.session.step(SessionEvent::Received(control));
        let sent = me.apply(effects, *left);
        if me.tokens != before {
            *left -= 1;
        }
        other.inbox.extend(sent);
    }
}

#[test]
fn two_sites_agree_on_a_fresh_token_each_time() {
    let [a, b] = meet(local(1, Tokens::default(), 7), local(2, Tokens::default(), 8), [9, 9]);
    assert!(a.ready && b.ready);
    assert_eq!(a.tokens, b.tokens);
    assert!(a.tokens.agreed.is_some() && a.tokens.offered.is_none());
    let [c, d] = meet(local(1, a.tokens, 9), local(2, b.tokens, 10), [9, 9]);
    assert!(c.ready && d.ready && c.tokens == d.tokens && c.tokens != a.tokens);
}

/// Either side may die before any of its stores: the next connect works, whoever got further.
#[test]
fn a_crash_between_the_stores_is_no_conflict() {
    let [a, b] = meet(local(1, Tokens::default(), 7), local(2, Tokens::default(), 8), [9, 9]);
    for first in 0..=2 {
        for second in 0..=2 {
            let [c, d] = meet(local(1, a.tokens, 9), local(2, b.tokens, 10), [first, second]);
            let [e, f] = meet(local(1, c.tokens, 11), local(2, d.tokens, 12), [9, 9]);
            assert!(e.ready && f.ready, "{first} {second}: {:?} {:?}", e.closed, f.closed);
            assert_eq!(e.tokens, f.tokens);
        }
    }
}

#[test]
fn an_old_backup_of_a_site_is_refused_until_a_person_accepts_it() {
    let [a, b] = meet(local(1, Tokens::default(), 7), local(2, Tokens::default(), 8), [9, 9]);
    let [_, b2] = meet(local(1, a.tokens, 9), local(2, b.tokens, 10), [9, 9]);
    let [old, peer] = meet(local(1, a.tokens, 11), local(2, b2.tokens, 12), [9, 9]);
    assert!(!old.ready && !peer.ready);
    assert!(peer.closed == Some("identity-conflict") || old.closed == Some("identity-conflict"));
    assert_eq!(peer.tokens, b2.tokens, "nothing is stored for a copy");
    let accept = |mut l: LocalSite| {
        l.accept_once = true;
        l
    };
    let [old, peer] = meet(accept(local(1, a.tokens, 11)), accept(local(2, b2.tokens, 12)), [9, 9]);
    assert!(old.ready && peer.ready);
}

#[test]
fn another_site_another_version_or_a_message_out_of_turn_ends_it() {
    let (mut one, _) = end(local(1, Tokens::default(), 7));
    let hello = |site: u8, versions| {
        Control::Hello(Hello {
            versions,
            features: Vec::new(),
            site: StoreId([site; 16]),
            name: "x".into(),
            agreed: None,
            offered: None,
            nonce: Token([1; 16]),
        })
    };
    for (control, name) in [
        (hello(9, (1, 1)), "not-original-peer"),
        (hello(1, (1, 1)), "same-site"),
        (hello(2, (2, 3)), "version-mismatch"),
        (Control::Session { token: Token([1; 16]) }, "identity-conflict"),
        (Control::Refused { name: "busy".into(), text: "later".into() }, "refused-by-peer"),
    ] {
        let (mut session, _) = Session::new(local(1, Tokens::default(), 7));
        let effects = session.step(SessionEvent::Received(control));
        assert!(
            effects.iter().any(|e| matches!(e, SessionEffect::Close { name: n, .. } if *n == name)),
            "{name}: {effects:?}"
        );
        assert!(!session.is_ready());
    }
    let group = Control::Group {
        group: crate::vocab::GroupId([1; 16]),
        about: Box::new(crate::exchange::message::About::Met),
    };
    let effects = one.session.step(SessionEvent::Received(group));
    assert!(effects.iter().any(|e| matches!(e, SessionEffect::Close { name: "protocol-error", .. })), "S4");
}
