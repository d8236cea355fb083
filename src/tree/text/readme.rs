//! `README` of a mount.

/// The text of `README` at the top of a mount of this site.
pub fn readme(site: &str, version: &str) -> String {
    format!(
        "standbyfs {version}, site {site}\n\
         \n\
         disks/<vm>/<disk>.raw    put disk images here, or point QEMU and libvirt at them: cp, qemu-img, truncate,\n\
         \x20                        mkdir, rm work as anywhere. One directory (or one file) is one VM.\n\
         vms/<vm>/status          how it stands; also health, allowed, check, policy, gaps. `status.json` beside it.\n\
         vms/<vm>/control/<verb>  read it: usage, whether it would be accepted now, and what it would lose.\n\
         \x20                        write a line to it: the command is durable when the write returns.\n\
         vms/<vm>/recovery-points/  every kept moment as a directory of plain read-only images; also latest,\n\
         \x20                        latest-processed, @<time>, @seq-<n>, @<epoch>-<n>.\n\
         jobs/<id>/status         what a command is doing; control takes `cancel`.\n\
         site/                    status, events, peers, control of this site.\n\
         \n\
         Protect a VM:            echo to=<peer> > vms/<vm>/control/protect\n\
         Take over, at the peer:  echo latest > vms/<vm>/control/failover\n\
         Make it final:           echo confirm=<vm> > vms/<vm>/control/commit\n\
         Take it back:            echo confirm=<vm> > vms/<vm>/control/rollback\n\
         \n\
         A refused command fails with an errno and changes nothing. On the handle that wrote, reading gives the\n\
         name of the refusal and what to do:\n\
         \n\
         \x20   exec 3<> vms/<vm>/control/failover; echo latest >&3; cat <&3\n\
         \n\
         One command per open file. `standbyctl` does the same with tables, progress and exit codes.\n"
    )
}
