//! The driver's ring of power samples: irregular in time, without gaps, a little late.

use crate::load::Busy;
use crate::script::{Device, EnergySamples};

/// Distances between samples in milliseconds. Ten of them take 200 ms; their order changes.
const DISTANCES_MS: [u8; 10] = [8, 9, 11, 13, 15, 17, 20, 25, 35, 47];
const BLOCK_MS: i64 = 200;

/// One sample of the ring: the mean power since the one before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// End of what it covers and its stamp, in whole milliseconds after the epoch.
    pub end_ms: i64,
    /// Length of what it covers, in milliseconds.
    pub length_ms: u16,
    /// Mean power in milliwatts.
    pub milliwatts: u32,
}

/// What the ring holds at `t_s`, oldest first.
pub(crate) fn ring(device: &Device, work: &[Busy], t_s: f64) -> Vec<Sample> {
    let settings = &device.samples;
    let newest_ms = (t_s * 1e3 - settings.delay_ms).floor() as i64;
    let mut samples = Vec::with_capacity(settings.capacity);
    let mut block = newest_ms.div_euclid(BLOCK_MS * i64::from(settings.spacing));
    let blocks = settings.capacity / DISTANCES_MS.len() + 2;
    for _ in 0..blocks {
        let ends = block_ends(settings, block);
        samples.extend(ends.into_iter().rev().filter(|(end_ms, _)| *end_ms <= newest_ms));
        block -= 1;
    }
    samples.truncate(settings.capacity);
    let origin_s = device.events_from.at_s(work);
    let kept = samples.into_iter().rev().filter(|(end_ms, _)| !is_lost(settings, *end_ms as f64 / 1e3 - origin_s));
    kept.map(|(end_ms, length_ms)| sample(device, work, end_ms, length_ms)).collect()
}

fn sample(device: &Device, work: &[Busy], end_ms: i64, length_ms: u16) -> Sample {
    let to_s = end_ms as f64 / 1e3;
    let mean_ms = device.samples.mean_ms.unwrap_or(f64::from(length_ms));
    let watts = device.mean_w(work, to_s - mean_ms / 1e3, to_s);
    Sample { end_ms, length_ms, milliwatts: (device.samples.gain * watts * 1e3).round() as u32 }
}

fn is_lost(settings: &EnergySamples, event_s: f64) -> bool {
    settings.lost.iter().any(|span| span.contains(event_s))
}

/// End and length of each sample of a block, in order. The last ends where the next block starts.
fn block_ends(settings: &EnergySamples, block: i64) -> [(i64, u16); 10] {
    let spacing = u16::from(settings.spacing);
    let mut lengths = DISTANCES_MS;
    let mut state = settings.seed ^ (block as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for last in (1..lengths.len()).rev() {
        state = mixed(state);
        lengths.swap(last, (state % (last as u64 + 1)) as usize);
    }
    let mut end_ms = block * BLOCK_MS * i64::from(spacing);
    lengths.map(|length_ms| {
        let length_ms = u16::from(length_ms) * spacing;
        end_ms += i64::from(length_ms);
        (end_ms, length_ms)
    })
}

/// One step of SplitMix64.
fn mixed(state: u64) -> u64 {
    let state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Span;
    use crate::shape::{Power, Square};

    fn device(samples: EnergySamples) -> Device {
        let power = Power::Square(Square { period_s: 0.33, duty: 0.4, ..Square::default() });
        Device { power, samples, ..Device::default() }
    }

    #[test]
    fn there_are_no_gaps_and_the_energies_add_up() {
        let device = device(EnergySamples { seed: 7, ..EnergySamples::default() });
        for t_s in [0.0, 1.234, 77.7, 1000.05] {
            let samples = ring(&device, &[], t_s);
            assert_eq!(samples.len(), 119);
            assert!(samples.windows(2).all(|pair| pair[1].end_ms - i64::from(pair[1].length_ms) == pair[0].end_ms));
            let joules = samples.iter().map(|s| f64::from(s.milliwatts) * f64::from(s.length_ms) / 1e6).sum::<f64>();
            let from_s = (samples[0].end_ms - i64::from(samples[0].length_ms)) as f64 / 1e3;
            let truth = device.joules(&[], from_s, samples[118].end_ms as f64 / 1e3);
            assert!((joules - truth).abs() < 1e-5 * truth, "{joules} {truth}");
        }
    }

    #[test]
    fn the_newest_is_100_to_150_ms_old_and_a_sample_stays_what_it_was() {
        let device = device(EnergySamples::default());
        let mut seen: Vec<Sample> = Vec::new();
        for ms in (0..10_000).step_by(13) {
            let samples = ring(&device, &[], f64::from(ms) / 1e3);
            let age_ms = i64::from(ms) - samples[118].end_ms;
            assert!((100..=147).contains(&age_ms), "{age_ms}");
            let newer = seen.last().map_or(0, |last| samples.partition_point(|s| s.end_ms <= last.end_ms));
            assert!(newer == 0 || seen.ends_with(&samples[..newer]));
            seen.extend(&samples[newer..]);
        }
        let lengths: Vec<i64> = seen.iter().map(|s| i64::from(s.length_ms)).collect();
        let mean_ms = lengths.iter().sum::<i64>() as f64 / lengths.len() as f64;
        assert!((mean_ms - 20.0).abs() < 0.2 && lengths.contains(&8) && lengths.contains(&47), "{mean_ms}");
        assert_ne!(lengths[..10], lengths[10..20]);
    }

    #[test]
    fn lost_samples_leave_a_hole() {
        let device = device(EnergySamples { lost: vec![Span::new(4.0, 4.5)], ..EnergySamples::default() });
        let samples = ring(&device, &[], 5.0);
        assert!((90..=97).contains(&samples.len()), "{}", samples.len());
        assert!(samples.iter().all(|s| s.end_ms < 4000 || s.end_ms >= 4500));
    }

    #[test]
    fn samples_can_be_further_apart_than_they_look_back() {
        let sparse = EnergySamples { spacing: 5, mean_ms: Some(25.0), ..EnergySamples::default() };
        let device = device(sparse);
        let samples = ring(&device, &[], 100.0);
        let mean_ms = samples.iter().map(|s| f64::from(s.length_ms)).sum::<f64>() / 119.0;
        assert!((mean_ms - 100.0).abs() < 3.0, "{mean_ms}");
        let step = Device { power: Power::Square(Square { period_s: 2.0, ..Square::default() }), ..device };
        // Hardly any looks back over one of its steps.
        let powers: std::collections::BTreeSet<u32> = ring(&step, &[], 100.0).iter().map(|s| s.milliwatts).collect();
        assert!(powers.len() < 12, "{powers:?}");
    }
}
