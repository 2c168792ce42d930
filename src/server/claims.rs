//! What a connection has of the engine for longer than a request: the dump that it is in the middle
//! of, and that it watches. It is given back when the connection ends, however that comes about.

use crate::engine::{Engine, Watcher};
use std::sync::Arc;

/// See the module. Nearly all connections have nothing.
#[derive(Default)]
pub struct Claims(Option<Box<Held>>);

struct Held {
    engine: Arc<Engine>,
    /// The dump that was gone on with last, if any; it may be over.
    dump: Option<u32>,
    watcher: Option<Arc<Watcher>>,
}

impl Claims {
    /// Whether there is anything.
    #[inline]
    pub fn are_some(&self) -> bool {
        self.0.is_some()
    }

    /// The connection is in the middle of this dump.
    #[cold]
    pub fn hold_dump(&mut self, engine: &Arc<Engine>, number: u32) {
        self.held(engine).dump = Some(number);
    }

    /// The connection watches from now on, under this number and no other.
    #[cold]
    pub fn hold_watcher(&mut self, engine: &Arc<Engine>, number: u32) {
        let held = self.held(engine);
        let before = std::mem::replace(&mut held.watcher, engine.watcher(number));
        before.iter().for_each(|watcher| engine.end_watching(watcher));
    }

    /// What it is told of what it watches.
    pub fn watcher(&self) -> Option<&Arc<Watcher>> {
        self.0.as_ref()?.watcher.as_ref()
    }

    fn held(&mut self, engine: &Arc<Engine>) -> &mut Held {
        self.0.get_or_insert_with(|| Box::new(Held { engine: engine.clone(), dump: None, watcher: None }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.dump.iter().for_each(|number| self.engine.end_dump(*number));
        self.watcher.iter().for_each(|watcher| self.engine.end_watching(watcher));
    }
}
