//! The target's half: appends or stages what follows its head, and confirms what is durable and checked.
//!
//! Z1. A run of records follows the head (or, staged, the staged moment) without a gap, or the connection ends.
//! Z2. The chain over it is computed here before anything of it is kept. Different: nothing is kept, the connection
//!     ends, `corruption`.
//! Z3. Only what is durable here is confirmed.
//! Z4. A fill belongs to the copy and is of exactly the staged moment. Zeros are staged like other content.
//! Z5. A jump is published only when nothing is missing, at the staged moment, and everything staged is durable.

use crate::exchange::effect::{Effect, Local, Planned, Report, Ticket};
use crate::exchange::message::{About, Data, Fill, Standing};
use crate::exchange::ranges::RangeSet;
use crate::exchange::record::run_after;
use crate::exchange::rules::Rules;
use crate::exchange::source::{Desk, Refusal, shrink};
use crate::history::{ChainValue, DiskSize};
use crate::vocab::{Codec, GroupId, Moment, Token};
use std::collections::VecDeque;

struct Staging {
    copy: Token,
    at: Moment,
    chain: ChainValue,
    missing: RangeSet,
}

/// What was asked for when everything staged is durable.
struct Publish {
    to: Moment,
    chain: ChainValue,
    disks: Vec<DiskSize>,
}

/// A target, connected to its source.
pub(crate) struct Target {
    group: GroupId,
    rules: Rules,
    head: Option<(Moment, ChainValue)>,
    staging: Option<Staging>,
    /// Ranges of a set that is being received.
    heard: RangeSet,
    frames: u64,
    /// Appends under way: ticket, frame, and what is held after it.
    pending: VecDeque<(Ticket, u64, Moment, ChainValue)>,
    publish: Option<Publish>,
    publishing: Option<(Ticket, Moment, ChainValue)>,
    stopped: bool,
    standing: Option<Standing>,
}

impl Target {
    /// A target at its head, with what it has staged.
    pub fn new(group: GroupId, rules: Rules, local: &Local) -> Self {
        let staged = local.copy.as_ref();
        let staging = staged.map(|c| Staging {
            copy: c.copy,
            at: c.staged,
            chain: c.chain,
            missing: local.missing.clone(),
        });
        Self {
            group,
            rules,
            head: local.head,
            staging,
            heard: RangeSet::new(),
            frames: 0,
            pending: VecDeque::new(),
            publish: None,
            publishing: None,
            stopped: false,
            standing: None,
        }
    }

    /// What is received, appended or being appended.
    pub fn head(&self) -> Option<(Moment, ChainValue)> {
        self.head
    }

    /// Whether nothing that was received still waits to be durable.
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// Where the source said it stands.
    pub fn standing(&self) -> Option<Standing> {
        self.standing
    }

    /// Nothing more is taken.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Records.
    pub fn data(&mut self, data: Box<Data>, desk: &mut Desk<'_>) -> Result<(), Refusal> {
        if self.stopped {
            return Ok(());
        }
        self.standing = Some(data.standing);
        let at = match &self.staging {
            Some(staging) => Some((staging.at, staging.chain)),
            None => self.head,
        };
        let (moment, chain) = match run_after(self.group, at, data.epoch, &data.records) {
            Ok(after) => after,
            Err(error) => return Err(("corruption", error.to_string())),
        };
        // Z2.
        if chain != data.chain && self.rules.check_chain {
            let text = format!("the chain differs at {moment}: {} was told, {chain} is right", data.chain);
            desk.out.push(Effect::Report(Report::Corruption(text.clone())));
            return Err(("corruption", text));
        }
        let chain = data.chain;
        let ticket = (desk.tickets)();
        match &mut self.staging {
            Some(staging) => {
                data.records.iter().for_each(|r| shrink(&mut staging.missing, r));
                (staging.at, staging.chain) = (moment, chain);
                desk.out.push(Effect::Stage(ticket, data));
            }
            None => {
                self.head = Some((moment, chain));
                desk.out.push(Effect::Append(ticket, data));
            }
        }
        self.received(ticket, moment, chain, desk);
        Ok(())
    }

    /// A range at the staged moment.
    pub fn fill(&mut self, fill: Box<Fill>, desk: &mut Desk<'_>) -> Result<(), Refusal> {
        if self.stopped {
            return Ok(());
        }
        let Some(staging) = self.staging.as_mut().filter(|s| s.copy == fill.copy) else {
            return Err(("protocol-error", "the peer sent a range of a copy that isn't staged".into()));
        };
        // Z4.
        if fill.at != staging.at {
            let text = format!("the peer sent a range of {} where {} is staged", fill.at, staging.at);
            return Err(("protocol-error", text));
        }
        staging.missing.remove(fill.range());
        let (at, chain) = (staging.at, staging.chain);
        let ticket = (desk.tickets)();
        if fill.codec == Codec::Zeros && !self.rules.zeros_are_filled {
            let empty = Box::new(Fill { length: 0, ..*fill });
            desk.out.push(Effect::StageFill(ticket, empty));
        } else {
            desk.out.push(Effect::StageFill(ticket, fill));
        }
        self.received(ticket, at, chain, desk);
        Ok(())
    }

    fn received(&mut self, ticket: Ticket, moment: Moment, chain: ChainValue, desk: &mut Desk<'_>) {
        self.frames += 1;
        if self.rules.ack_after_durable {
            self.pending.push_back((ticket, self.frames, moment, chain));
        } else {
            desk.out.push(Effect::say(self.group, About::Ack { frames: self.frames, moment, chain }));
        }
    }

    /// Everything up to a ticket is durable. Z3.
    pub fn appended(&mut self, ticket: Ticket, desk: &mut Desk<'_>) {
        let mut last = None;
        while self.pending.front().is_some_and(|(t, ..)| *t <= ticket) {
            last = self.pending.pop_front();
        }
        if let Some((_, frames, moment, chain)) = last {
            desk.out.push(Effect::say(self.group, About::Ack { frames, moment, chain }));
        }
        self.try_publish(desk);
    }

    /// A message of a copy.
    pub fn copy(&mut self, about: About, desk: &mut Desk<'_>) -> Result<(), Refusal> {
        if self.stopped {
            return Ok(());
        }
        match about {
            About::Ranges { ranges, .. } => ranges.iter().for_each(|r| self.heard.add(*r)),
            About::CopyBegin { copy, reason, onto_image, at, chain, disks } => {
                if onto_image && self.head.is_none() {
                    return Err(("protocol-error", "a copy onto an image where there is none".into()));
                }
                let set = std::mem::take(&mut self.heard);
                self.staging = Some(Staging { copy, at, chain, missing: set.clone() });
                let planned = Planned { copy, reason, onto_image, at, chain, set, disks };
                desk.out.push(Effect::BeginStaging((desk.tickets)(), Box::new(planned)));
            }
            About::CopySkip { copy, to, chain } => {
                let set = std::mem::take(&mut self.heard);
                let staging = self.staged(copy)?;
                (staging.at, staging.chain) = (to, chain);
                staging.missing.extend(&set);
                desk.out.push(Effect::StageSkip((desk.tickets)(), to, chain, set));
            }
            About::CopyDrop { copy } => {
                self.staged(copy)?;
                self.staging = None;
                desk.out.push(Effect::DropStaging(copy));
            }
            About::AskMissing { copy } => {
                let missing = self.staged(copy)?.missing.clone();
                crate::exchange::source::send_ranges(self.group, &missing, desk.out);
            }
            About::Publish { copy, to, chain, disks } => {
                let staging = self.staged(copy)?;
                if !staging.missing.is_empty() || staging.at != to || staging.chain != chain {
                    let left = staging.missing.bytes();
                    let text = format!(
                        "{to} can't be published: {left} bytes are missing, {} is staged",
                        staging.at
                    );
                    return Err(("protocol-error", text));
                }
                self.publish = Some(Publish { to, chain, disks });
                self.try_publish(desk);
            }
            _ => return Err(("protocol-error", "the peer sent a message out of turn".into())),
        }
        Ok(())
    }

    fn staged(&mut self, copy: Token) -> Result<&mut Staging, Refusal> {
        self.staging
            .as_mut()
            .filter(|s| s.copy == copy)
            .ok_or(("protocol-error", "the peer speaks of a copy that isn't staged here".into()))
    }

    /// Z5.
    fn try_publish(&mut self, desk: &mut Desk<'_>) {
        if !self.pending.is_empty() && self.rules.publish_after_durable {
            return;
        }
        if let (Some(Publish { to, chain, disks }), Some(staging)) = (self.publish.take(), &self.staging) {
            let ticket = (desk.tickets)();
            self.publishing = Some((ticket, to, chain));
            desk.out.push(Effect::PublishJump { ticket, copy: staging.copy, to, chain, disks });
        }
    }

    /// The jump is durable.
    pub fn published(&mut self, ticket: Ticket, desk: &mut Desk<'_>) {
        let Some((_, to, chain)) = self.publishing.filter(|(t, ..)| *t == ticket) else { return };
        self.publishing = None;
        let Some(staging) = self.staging.take() else { return };
        self.head = Some((to, chain));
        desk.out.push(Effect::say(self.group, About::Published { copy: staging.copy, to }));
    }
}
