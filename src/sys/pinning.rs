//! Which cores this process may use, and binding a thread to one of them.

/// Cores that the process may run on (its affinity mask, so a container's cpuset counts), in order.
pub fn cores() -> Vec<core_affinity::CoreId> {
    core_affinity::get_core_ids().unwrap_or_default()
}

/// Bind the calling thread to `core`. False when the system refuses; the thread then runs where it
/// is put.
pub fn pin_current_thread(core: core_affinity::CoreId) -> bool {
    core_affinity::set_for_current(core)
}
