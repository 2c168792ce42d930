//! Up to when all that the primary had is here. Pure.
//!
//! A look that shows another beat than the look before proves that the primary lived after that
//! look before had begun ([`super::beats`]). Whatever had been committed then is below what this
//! look shows. So once a lane has applied that, it is no further behind than the begin of the look
//! before. (Not than the begin of this one: between the two the primary may have stood still, and
//! another server may have taken its place.)

/// Of one lane.
#[derive(Default)]
pub struct Freshness {
    /// What is to be applied, and of when it is then.
    awaited: Option<(u64, u64)>,
}

impl Freshness {
    /// All that the primary had at this time is below `committed`. One that is awaited comes first:
    /// where writes never end, the latest would never be there.
    pub fn seen(&mut self, committed: u64, at: u64) {
        self.awaited.get_or_insert((committed, at));
    }

    /// Everything below `cursor` is here. Of when that is, if that is news.
    pub fn applied(&mut self, cursor: u64) -> Option<u64> {
        let (_, at) = self.awaited.take_if(|(committed, _)| *committed <= cursor)?;
        Some(at)
    }

    /// What was seen was of another log.
    pub fn forget(&mut self) {
        self.awaited = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_here_is_of_the_time_of_which_all_is_here() {
        let mut freshness = Freshness::default();
        assert_eq!(freshness.applied(900), None);
        freshness.seen(100, 5);
        assert_eq!(freshness.applied(99), None);
        freshness.seen(300, 7);
        assert_eq!(freshness.applied(100), Some(5), "later looks do not hold it up");
        assert_eq!(freshness.applied(400), None, "what was seen meanwhile is not waited for");
        freshness.seen(400, 9);
        freshness.forget();
        assert_eq!(freshness.applied(900), None);
    }
}
