//! Rules that a test leaves out to show that it would notice. All hold in the product.

/// Which rules hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// A1: only what is durable is shipped.
    pub durable_only: bool,
    /// A5: a fill is read at the moment sent last.
    pub fill_at_cursor: bool,
    /// A6: a staged copy goes on only on this line.
    pub compare_staged: bool,
    /// A7: what was skipped is missing again.
    pub skipped_join_set: bool,
    /// Z2: what was received is checked against the chain.
    pub check_chain: bool,
    /// Z4: ranges of zeros are staged like others.
    pub zeros_are_filled: bool,
    /// Z5: a jump is published after all that was staged is durable.
    pub publish_after_durable: bool,
    /// Z3: what isn't durable isn't confirmed.
    pub ack_after_durable: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        durable_only: true,
        fill_at_cursor: true,
        compare_staged: true,
        skipped_join_set: true,
        check_chain: true,
        zeros_are_filled: true,
        publish_after_durable: true,
        ack_after_durable: true,
    };
}
