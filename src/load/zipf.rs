//! Zipf's distribution by rejection-inversion (W. Hörmann, G. Derflinger, "Rejection-inversion to
//! generate variates from monotone discrete distributions", 1996): no table, so the number of keys
//! may be any; about 1.1 tries a sample.
//!
//! Rank k (from 1) comes with a probability proportional to k^-exponent. The area under the curve
//! x^-exponent is inverted exactly; a sample is refused where the curve lies above the step.

/// Ranks 0 to `count` - 1, the small ones more often.
#[derive(Debug, Clone)]
pub struct Zipf {
    count: f64,
    exponent: f64,
    area_first: f64,
    area_all: f64,
    /// A sample that was rounded by less than this is taken without a further test.
    sure: f64,
}

impl Zipf {
    /// Panics when there are no ranks, or the exponent is not a positive number.
    pub fn new(count: u32, exponent: f64) -> Zipf {
        assert!(count > 0 && exponent > 0.0 && exponent.is_finite(), "{count} ranks with exponent {exponent}");
        let mut zipf = Zipf { count: f64::from(count), exponent, area_first: 0.0, area_all: 0.0, sure: 0.0 };
        zipf.area_first = zipf.area(1.5) - 1.0;
        zipf.area_all = zipf.area(zipf.count + 0.5);
        zipf.sure = 2.0 - zipf.area_inverse(zipf.area(2.5) - zipf.height(2.0));
        zipf
    }

    /// One rank.
    pub fn pick(&self, rng: &mut fastrand::Rng) -> u32 {
        loop {
            let area = self.area_all + rng.f64() * (self.area_first - self.area_all);
            let at = self.area_inverse(area);
            let rank = at.round().clamp(1.0, self.count);
            if rank - at <= self.sure || area >= self.area(rank + 0.5) - self.height(rank) {
                return rank as u32 - 1;
            }
        }
    }

    fn height(&self, at: f64) -> f64 {
        (-self.exponent * at.ln()).exp()
    }

    /// The integral of the curve from 1: (x^(1-e) - 1) / (1-e), in a form that also holds for e
    /// = 1.
    fn area(&self, at: f64) -> f64 {
        let log = at.ln();
        let power = (1.0 - self.exponent) * log;
        log * if power.abs() > TINY { power.exp_m1() / power } else { 1.0 + power / 2.0 }
    }

    fn area_inverse(&self, area: f64) -> f64 {
        let power = (area * (1.0 - self.exponent)).max(-1.0);
        (area * if power.abs() > TINY { power.ln_1p() / power } else { 1.0 - power / 2.0 }).exp()
    }
}

/// Below this the quotients above lose their digits, and the first two terms of their series are
/// exact enough.
const TINY: f64 = 1e-8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_come_as_often_as_the_law_says() {
        for exponent in [0.5, 0.99, 1.0, 1.3] {
            let (count, samples) = (50, 400_000);
            let zipf = Zipf::new(count, exponent);
            let mut rng = fastrand::Rng::with_seed(1);
            let mut seen = vec![0_u32; count as usize];
            for _ in 0..samples {
                seen[zipf.pick(&mut rng) as usize] += 1;
            }
            let weight = |rank: usize| (rank as f64 + 1.0).powf(-exponent);
            let all: f64 = (0..count as usize).map(weight).sum();
            for (rank, seen) in seen.iter().enumerate() {
                let expected = weight(rank) / all * f64::from(samples);
                // Six standard deviations; the seed is fixed, so this passes always or never.
                let near = 6.0 * expected.sqrt();
                assert!((f64::from(*seen) - expected).abs() < near, "{exponent} {rank}: {seen} for {expected}");
            }
        }
    }

    #[test]
    fn one_rank_and_many_ranks_stay_in_bounds() {
        let mut rng = fastrand::Rng::with_seed(2);
        let (one, many) = (Zipf::new(1, 0.99), Zipf::new(u32::MAX, 0.99));
        assert!((0..1000).all(|_| one.pick(&mut rng) == 0));
        let largest = (0..10_000).map(|_| many.pick(&mut rng)).max();
        assert!(largest.is_some_and(|rank| rank > u32::MAX / 100), "{largest:?}");
    }
}
