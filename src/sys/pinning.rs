//! Which cores this process may use, and binding a thread to one or some of them.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Cores that the process may run on (its affinity mask, so a container's cpuset counts), in order.
pub fn cores() -> Vec<core_affinity::CoreId> {
    core_affinity::get_core_ids().unwrap_or_default()
}

/// Bind the calling thread to `core`. False when the system refuses; the thread then runs where it
/// is put.
pub fn pin_current_thread(core: core_affinity::CoreId) -> bool {
    core_affinity::set_for_current(core)
}

/// The cores that a thread was given, among which it can be kept to some.
pub struct Given(Option<CpuSet>);

impl Given {
    /// Those of the calling thread now.
    pub fn to_current_thread() -> Given {
        Given(sched_getaffinity(None).ok())
    }

    /// Keep the calling thread to those of `cores` that it was given; to all that it was given if
    /// that is none. Returns to how many of `cores`; 0 if the system refuses as well. Memory that
    /// the thread is the first to touch from then on comes from their NUMA node.
    pub fn keep_to(&self, cores: &[usize]) -> usize {
        let Some(given) = &self.0 else { return 0 };
        let mut some = CpuSet::new();
        let is_given = |core: &&usize| **core < CpuSet::MAX_CPU && given.is_set(**core);
        cores.iter().filter(is_given).for_each(|core| some.set(*core));
        let count = some.count() as usize;
        let set = sched_setaffinity(None, if count > 0 { &some } else { given });
        if set.is_ok() { count } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> CpuSet {
        sched_getaffinity(None).expect("a thread can ask for its own")
    }

    #[test]
    fn a_thread_is_kept_to_some_cores_and_let_go_again() {
        std::thread::spawn(|| {
            let before = now();
            let core = (0..CpuSet::MAX_CPU).find(|core| before.is_set(*core)).expect("it runs somewhere");
            let given = Given::to_current_thread();
            let foreign = (0..CpuSet::MAX_CPU).find(|core| !before.is_set(*core));
            let cores: Vec<usize> = foreign.into_iter().chain([core, 1 << 20]).collect();
            assert_eq!(given.keep_to(&cores), 1, "what it was not given it does not get");
            assert!(now().is_set(core) && now().count() == 1);
            assert_eq!(given.keep_to(&[1 << 20]), 0);
            assert!(now() == before, "no core is as many as before");
        })
        .join()
        .expect("as told");
    }
}
