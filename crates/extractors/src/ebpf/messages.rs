//! Sends the messages of libbpf to our log.
//!
//! The callback of `libbpf-rs` panics on messages that are not UTF-8. It is called from C, so the panic aborts the process. Messages quote
//! the path of a program and its ELF notes, which any local user can choose.

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use libbpf_rs::libbpf_sys;

/// Longer messages are cut, bytes.
const MAX_MESSAGE: usize = 64 << 10;

/// Whether debug messages are logged.
static WANTS_DEBUG: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    /// Of the C library. A `va_list` is handed on as a pointer on all architectures that we build for.
    fn vsnprintf(buffer: *mut c_char, size: usize, format: *const c_char, arguments: *mut c_void) -> c_int;
}

/// Installs the callback; `wants_debug` includes debug messages.
pub(super) fn route(wants_debug: bool) {
    WANTS_DEBUG.store(wants_debug, Ordering::Relaxed);
    // SAFETY: `print` has the signature that libbpf calls, but that bindgen has another type for the pointer in each architecture.
    let callback = unsafe {
        std::mem::transmute::<
            unsafe extern "C" fn(libbpf_sys::libbpf_print_level, *const c_char, *mut c_void) -> c_int,
            libbpf_sys::libbpf_print_fn_t,
        >(print)
    };
    // SAFETY: the callback is a function, so it lives for ever; libbpf may call it from any thread, and it may be called so.
    unsafe { libbpf_sys::libbpf_set_print(callback) };
}

unsafe extern "C" fn print(
    level: libbpf_sys::libbpf_print_level,
    format: *const c_char,
    arguments: *mut c_void,
) -> c_int {
    let is_debug = level == libbpf_sys::LIBBPF_DEBUG;
    if is_debug && !WANTS_DEBUG.load(Ordering::Relaxed) {
        return 0;
    }
    let mut buffer = vec![0_u8; MAX_MESSAGE];
    // SAFETY: the buffer is as long as it says; format and arguments are libbpf's, and belong together.
    let length = unsafe { vsnprintf(buffer.as_mut_ptr().cast(), buffer.len(), format, arguments) };
    let length = usize::try_from(length).unwrap_or(0).min(MAX_MESSAGE - 1);
    // The verifier's log has many lines, and an event of ours is one.
    for line in String::from_utf8_lossy(&buffer[..length]).lines() {
        match is_debug {
            true => tracing::info!(target: "libbpf", "{line}"),
            // The caller reports the failure with its reason; this is detail.
            false => tracing::debug!(target: "libbpf", "{line}"),
        }
    }
    0
}
