//! Who may command: the user who mounted, and a group of this machine if there is one.

use std::ffi::CStr;

/// Members of this group may write to control files.
const GROUP: &CStr = c"standbyfs";

/// User and group of control files.
pub(super) fn keepers() -> (u32, u32) {
    let user = rustix::process::geteuid().as_raw();
    (user, group().unwrap_or_else(|| rustix::process::getegid().as_raw()))
}

fn group() -> Option<u32> {
    let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
    let mut buffer = vec![0_i8; 16 << 10];
    let mut found = std::ptr::null_mut();
    // SAFETY: `entry`, `buffer` (with its length) and `found` outlive the call; `entry` is read only if `found`
    // points to it, which says that it was filled.
    unsafe {
        let failed = libc::getgrnam_r(
            GROUP.as_ptr(),
            entry.as_mut_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            &raw mut found,
        );
        (failed == 0 && !found.is_null()).then(|| (*found).gr_gid)
    }
}
