//! Turns a panic of raft-rs into a message: any call may panic (a peer that claims too high a
//! commit index, say), and a process that unwound through the engine must not use it again.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the text and place of a panic inside a guarded call instead of printing them; every other
/// panic goes to the hook that was there before.
pub fn install_panic_hook() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if GUARDED.with(Cell::get) {
            LAST_PANIC.with(|text| *text.borrow_mut() = info.to_string());
        } else {
            previous(info);
        }
    }));
}

/// Runs `call`; a panic comes back as its text.
pub fn catch<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let outer = GUARDED.with(|g| g.replace(true));
    let outcome = panic::catch_unwind(AssertUnwindSafe(call));
    GUARDED.with(|g| g.set(outer));
    outcome.map_err(|_| LAST_PANIC.with(|text| text.borrow_mut().split_off(0)))
}
