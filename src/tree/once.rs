//! Requests that are harmful when repeated: a request that the kernel sends again gets its first answer.
//!
//! O1. It is durable that a request began before anything is done for it.
//! O2. What began and may have been done is finished: "it is done already" counts as success.

use crate::site::requests::Seen;
use crate::tree::ops::{Answer, Errno, Request};
use crate::tree::tree::{Tree, failed};

/// What a request does.
pub(super) struct Once<C, D> {
    /// What it is, for who reads the file.
    pub(super) what: String,
    /// What speaks against it, before anything is done.
    pub(super) check: C,
    /// Does it. True: it may have been done, wholly or in part, by a process before this one.
    pub(super) act: D,
}

impl Tree {
    /// Does something once. A request that was answered before is answered by `done`, from what there is now.
    pub(super) fn once<T>(
        &self,
        request: &Request,
        once: Once<impl FnOnce() -> Answer<()>, impl FnOnce(bool) -> Answer<T>>,
        done: impl FnOnce() -> Answer<T>,
    ) -> Answer<T> {
        let requests = self.host.requests();
        let mut again = false;
        if request.resent {
            match requests.begin(request.unique, &once.what).map_err(failed)? {
                Seen::Done(0, _) => return done(),
                Seen::Done(errno, _) => return Err(Errno(errno)),
                Seen::Begun(_) => again = true,
                Seen::New => {}
            }
        }
        if !again {
            (once.check)()?;
        }
        if !request.resent {
            requests.begin(request.unique, &once.what).map_err(failed)?;
        }
        let answer = (once.act)(again);
        let errno = answer.as_ref().err().map_or(0, |e| e.0);
        if let Err(error) = requests.done(request.unique, errno, "") {
            // It stays one that was begun: were it sent again, it would be finished again.
            tracing::warn!(%error, "the answer of a request could not be kept");
        }
        answer
    }
}
