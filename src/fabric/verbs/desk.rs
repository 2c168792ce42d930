//! Which grants wait for their peers, by token, and which have one: what the listening thread and
//! the grants share.

use super::grant::Endpoint;
use crate::fabric::{FabricError, Token};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The grants that wait for peers, and those that have one.
#[derive(Default)]
struct Expected {
    tokens: HashMap<Token, u64>,
    endpoints: HashMap<u64, Weak<Endpoint>>,
    numbers: u64,
}

/// What the listening thread and the grants share.
#[derive(Default)]
pub(super) struct Desk(Mutex<Expected>);

impl Desk {
    fn expected(&self) -> MutexGuard<'_, Expected> {
        // Each change is a single insertion or removal, so a thread that panicked has left nothing
        // half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Expect `token`, once; the number is for [`Desk::forget`].
    pub fn expect(&self, token: Token, endpoint: &Arc<Endpoint>) -> u64 {
        let mut expected = self.expected();
        expected.numbers += 1;
        let number = expected.numbers;
        expected.endpoints.insert(number, Arc::downgrade(endpoint));
        expected.tokens.insert(token, number);
        number
    }

    /// Expect it no longer.
    pub fn forget(&self, token: Token, number: u64) {
        let mut expected = self.expected();
        expected.endpoints.remove(&number);
        if expected.tokens.get(&token) == Some(&number) {
            expected.tokens.remove(&token);
        }
    }

    /// Take out the grant that expects `token`: a token is good once.
    pub fn admit(&self, token: Token) -> Option<(u64, Arc<Endpoint>)> {
        let mut expected = self.expected();
        let number = expected.tokens.remove(&token)?;
        let endpoint = expected.endpoints.get(&number)?.upgrade()?;
        endpoint.is_due().then_some((number, endpoint))
    }

    /// The endpoint of that number, while its grant stands.
    pub fn endpoint(&self, number: u64) -> Option<Arc<Endpoint>> {
        self.expected().endpoints.get(&number)?.upgrade()
    }

    /// Whatever was granted is over: the device is gone.
    pub fn end_all(&self, why: &FabricError) {
        let endpoints: Vec<_> = self.expected().endpoints.values().filter_map(Weak::upgrade).collect();
        endpoints.iter().for_each(|endpoint| endpoint.ended(why.clone()));
    }
}
