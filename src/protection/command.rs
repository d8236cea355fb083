//! The commands: verbs as they are typed, and the columns of the table of states that they fall under.

use super::names::words;

words!(
    /// A column of the table of states and commands.
    Column ("command") {
        /// Begin to protect.
        Protect = "protect",
        /// End the protection.
        Unprotect = "unprotect",
        /// Pause and resume shipping.
        Pause = "pause",
        /// Send again what differs.
        Resync = "resync",
        /// Make a recovery point.
        Point = "point",
        /// Begin and end a test failover.
        Test = "test",
        /// Take over here, without the other site's consent.
        Failover = "failover",
        /// Take over here with the other site's consent: planned failover and failback.
        Planned = "planned",
        /// Choose another moment after a failover.
        Change = "change",
        /// Take a failover back.
        Rollback = "rollback",
        /// Make a failover final.
        Commit = "commit",
        /// Build the way back.
        Reprotect = "reprotect",
        /// End a migration.
        Migrate = "migrate",
        /// Decide between two lines, knowing both.
        Resolve = "resolve",
        /// Stop the job that runs.
        Cancel = "cancel",
    }
);

words!(
    /// A verb: the name of a file in a `control` directory.
    Verb ("verb") {
        /// Protect a VM or group.
        Protect = "protect",
        /// End its protection.
        Unprotect = "unprotect",
        /// Pause shipping.
        Pause = "pause",
        /// Resume shipping.
        Resume = "resume",
        /// Send again what differs.
        Resync = "resync",
        /// Make a recovery point.
        RecoveryPoint = "recovery-point",
        /// Begin or clean up a test failover.
        TestFailover = "test-failover",
        /// Take over here.
        Failover = "failover",
        /// Planned failover back to the original site.
        Failback = "failback",
        /// Choose another moment.
        ChangeRecoveryPoint = "change-recovery-point",
        /// Take a failover back.
        Rollback = "rollback",
        /// Make a failover final.
        Commit = "commit",
        /// Build the way back.
        Reprotect = "reprotect",
        /// End a migration: no way back.
        CompleteMigration = "complete-migration",
        /// Decide between two lines.
        Resolve = "resolve",
        /// Take another site for the lost peer.
        Adopt = "adopt",
        /// Delete a branch, a seed or a clone.
        Drop = "drop",
        /// Compare both sites' bytes at one moment.
        Scrub = "scrub",
        /// Take over a pair of images that another tool replicated.
        Enrol = "enrol",
        /// Give a disk a new identity.
        AssignNewUuid = "assign-new-uuid",
        /// Write a seed for the first copy into a directory.
        ExportSeed = "export-seed",
        /// Read such a seed.
        ImportSeed = "import-seed",
        /// Of a group: take a VM in.
        Join = "join",
        /// Of a group: let a VM go.
        Leave = "leave",
        /// Of the site: pair with another.
        Pair = "pair",
        /// Of the site: accept a peer whose identity was in doubt.
        Accept = "accept",
        /// Of the site: forget a peer.
        Forget = "forget",
        /// Of the site: take an image file into the datastore.
        Import = "import",
        /// Of the site: write its configuration into a directory.
        ExportConfig = "export-config",
        /// Of the site: read one.
        ImportConfig = "import-config",
        /// Of a job: stop it.
        Cancel = "cancel",
        /// Of a job: a manual step is done.
        Done = "done",
    }
);

words!(
    /// Whose `control` directory a verb lies in.
    Scope ("scope") {
        /// A VM; for a VM that is a group of one, the group too.
        Vm = "vm",
        /// A replication group.
        Group = "group",
        /// The site.
        Site = "site",
        /// A job.
        Job = "job",
    }
);

impl Verb {
    /// Whose verb it is. Those of a VM are also verbs of a group.
    pub fn scope(self) -> Scope {
        match self {
            Self::Join | Self::Leave => Scope::Group,
            Self::Pair
            | Self::Accept
            | Self::Forget
            | Self::Import
            | Self::ExportConfig
            | Self::ImportConfig => Scope::Site,
            Self::Cancel | Self::Done => Scope::Job,
            _ => Scope::Vm,
        }
    }

    /// The column that decides in which states it is accepted; `None`: in every state.
    pub fn column(self) -> Option<Column> {
        Some(match self {
            Self::Protect => Column::Protect,
            Self::Unprotect => Column::Unprotect,
            Self::Pause | Self::Resume => Column::Pause,
            Self::Resync => Column::Resync,
            Self::RecoveryPoint => Column::Point,
            Self::TestFailover => Column::Test,
            Self::Failover => Column::Failover,
            Self::Failback => Column::Planned,
            Self::ChangeRecoveryPoint => Column::Change,
            Self::Rollback => Column::Rollback,
            Self::Commit => Column::Commit,
            Self::Reprotect => Column::Reprotect,
            Self::CompleteMigration => Column::Migrate,
            Self::Resolve => Column::Resolve,
            Self::Cancel => Column::Cancel,
            _ => return None,
        })
    }

    /// Whether this version carries it out. The others are refused `not-supported-yet`.
    pub fn supported(self) -> bool {
        !matches!(
            self,
            Self::Reprotect
                | Self::Failback
                | Self::TestFailover
                | Self::CompleteMigration
                | Self::Resolve
                | Self::Adopt
                | Self::Enrol
                | Self::AssignNewUuid
                | Self::ExportSeed
                | Self::ImportSeed
                | Self::Join
                | Self::Leave
                | Self::ExportConfig
                | Self::ImportConfig
        )
    }

    /// One line on what it does.
    pub fn says(self) -> &'static str {
        match self {
            Self::Protect => "keep a standby at another site",
            Self::Unprotect => "end the protection",
            Self::Pause => "stop shipping until `resume`",
            Self::Resume => "ship again",
            Self::Resync => "send again what differs at the target",
            Self::RecoveryPoint => "name the present moment and keep it",
            Self::TestFailover => "make a writable clone of a moment, or clean one up",
            Self::Failover => "take over here: the disks become writable at the chosen moment",
            Self::Failback => "take over here, at the original site, with the other site's consent",
            Self::ChangeRecoveryPoint => "go to another moment after a failover that is not committed",
            Self::Rollback => "take a failover back that is not committed",
            Self::Commit => "make a failover final",
            Self::Reprotect => "protect towards the other site again",
            Self::CompleteMigration => "stay here for good: no way back",
            Self::Resolve => "decide for this site's line; the other yields",
            Self::Adopt => "take another site for a peer that is lost",
            Self::Drop => "delete a branch, a seed or a clone",
            Self::Scrub => "compare both sites' bytes at one moment",
            Self::Enrol => "adopt a pair of images that are replicated already",
            Self::AssignNewUuid => "give a disk a new identity",
            Self::ExportSeed => "write the first copy into a directory",
            Self::ImportSeed => "read a first copy from a directory",
            Self::Join => "take a VM into the group",
            Self::Leave => "let a VM leave the group",
            Self::Pair => "pair this site with another",
            Self::Accept => "accept a peer whose identity is in doubt",
            Self::Forget => "forget a peer",
            Self::Import => "take an image file into the datastore",
            Self::ExportConfig => "write this site's configuration into a directory",
            Self::ImportConfig => "read a site's configuration from a directory",
            Self::Cancel => "stop the job",
            Self::Done => "say that the manual step is done",
        }
    }

    /// Whether data may go away by it, so that its file shows the loss and the line needs `confirm=`.
    pub fn loses_data(self) -> bool {
        matches!(
            self,
            Self::Failover
                | Self::Failback
                | Self::ChangeRecoveryPoint
                | Self::Rollback
                | Self::Commit
                | Self::Resolve
                | Self::Drop
                | Self::Unprotect
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_a_verb_and_every_verb_a_sentence() {
        for &column in Column::ALL {
            // `planned` is a word of `failover` and what `failback` means.
            assert!(Verb::ALL.iter().any(|v| v.column() == Some(column)), "{column}");
        }
        for &verb in Verb::ALL {
            assert_eq!(verb.name().parse(), Ok(verb));
            assert!(verb.says().len() >= 10, "{verb}");
            if verb.column().is_some() {
                assert!(matches!(verb.scope(), Scope::Vm | Scope::Job), "{verb}");
            }
        }
    }
}
