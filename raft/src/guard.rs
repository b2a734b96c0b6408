//! Turns a panic of raft-rs into a message. Any call may panic, for example if a peer claims a
//! commit index that is too high. After a panic, the engine must not be used again.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the text and the place of a panic inside a guarded call, instead of printing them. All
/// other panics go to the previous hook.
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

/// Runs `call`. Returns the text of a panic as an error.
pub fn catch<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let outer = GUARDED.with(|g| g.replace(true));
    let outcome = panic::catch_unwind(AssertUnwindSafe(call));
    GUARDED.with(|g| g.set(outer));
    outcome.map_err(|_| LAST_PANIC.with(|text| text.borrow_mut().split_off(0)))
}
