//! First values of low-rank factors.
//!
//! PEFT draws from torch's global generator; ours is a counter keyed by seed and name, so a factor's first
//! values depend on nothing but these two: not on the other targets, not on the order, not on threads. (For the
//! same start as a PEFT run, load an adapter that PEFT saved.)

use engine::shapes::uniform;
use formats::adapter_config::InitLoraWeights;
use model::LoraInit;

use crate::LoraConfig;
use crate::plan::LoraTarget;

/// A and B of one target, by `init_lora_weights`.
pub(crate) fn first_values(config: &LoraConfig, target: &LoraTarget, seed: u64) -> LoraInit {
    let (rank, sizes) = (
        target.rank,
        (
            target.rank * target.in_features,
            target.out_features * target.rank,
        ),
    );
    let key = |part: &str| draw_key(seed, &target.path, part);
    // kaiming_uniform_(a=√5) over `fan` inputs: bound √(6 / ((1 + 5)·fan)).
    let kaiming = |part, count, fan: usize| {
        let bound = (fan as f64).sqrt().recip() as f32;
        uniform_values(key(part), count, bound)
    };
    let (a, b) = match &config.init_lora_weights {
        InitLoraWeights::Flag(false) => (
            kaiming("lora_A", sizes.0, target.in_features),
            kaiming("lora_B", sizes.1, rank),
        ),
        InitLoraWeights::Named(name) if name == "gaussian" => {
            let deviation = (rank as f32).recip();
            (
                normal_values(key("lora_A"), sizes.0, deviation),
                vec![0.0; sizes.1],
            )
        }
        _ => (
            kaiming("lora_A", sizes.0, target.in_features),
            vec![0.0; sizes.1],
        ),
    };
    LoraInit {
        rank,
        scaling: target.scaling as f32,
        dropout: config.lora_dropout.get() as f32,
        a,
        b,
    }
}

/// FNV-1a (Fowler, Noll, Vo) over seed and name.
fn draw_key(seed: u64, path: &str, part: &str) -> u64 {
    let bytes = seed.to_le_bytes();
    let all = bytes
        .iter()
        .chain(path.as_bytes())
        .chain(b"/")
        .chain(part.as_bytes());
    all.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn uniform_values(key: u64, count: usize, bound: f32) -> Vec<f32> {
    let draws = (0..count as u64).map(|index| uniform(key, index));
    draws.map(|draw| (2.0 * draw - 1.0) * bound).collect()
}

/// Box and Muller 1958.
fn normal_values(key: u64, count: usize, deviation: f32) -> Vec<f32> {
    let draw = |index: u64| {
        // 1 - u is in (0, 1]: its logarithm is finite.
        let radius = (-2.0 * f64::from(1.0 - uniform(key, 2 * index)).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(uniform(key, 2 * index + 1));
        (radius * angle.cos()) as f32 * deviation
    };
    (0..count as u64).map(draw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> LoraTarget {
        LoraTarget {
            path: "h.3.mlp".into(),
            in_features: 400,
            out_features: 70,
            fan_in_fan_out: false,
            rank: 25,
            scaling: 1.5,
        }
    }

    fn config(init: InitLoraWeights) -> LoraConfig {
        LoraConfig {
            init_lora_weights: init,
            ..LoraConfig::default()
        }
    }

    fn deviation(values: &[f32]) -> f64 {
        let sum: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
        (sum / values.len() as f64).sqrt()
    }

    #[test]
    fn true_gives_kaiming_a_and_zero_b() {
        let init = first_values(&config(InitLoraWeights::Flag(true)), &target(), 7);
        let bound = 1.0 / 20.0;
        assert!(init.a.iter().all(|v| v.abs() <= bound));
        let want = f64::from(bound) / 3f64.sqrt();
        assert!((deviation(&init.a) / want - 1.0).abs() < 0.02);
        assert!(init.b.iter().all(|v| *v == 0.0));
        assert_eq!((init.a.len(), init.b.len()), (25 * 400, 70 * 25));
    }

    #[test]
    fn gaussian_a_deviates_by_one_over_rank() {
        let init = first_values(
            &config(InitLoraWeights::Named("gaussian".into())),
            &target(),
            7,
        );
        assert!(
            (deviation(&init.a) * 25.0 - 1.0).abs() < 0.03,
            "{}",
            deviation(&init.a)
        );
        assert!(init.a.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn false_gives_both_and_a_seed_gives_the_same_again() {
        let config = config(InitLoraWeights::Flag(false));
        let init = first_values(&config, &target(), 7);
        assert!((deviation(&init.b) / (0.2 / 3f64.sqrt()) - 1.0).abs() < 0.05);
        assert_eq!(init, first_values(&config, &target(), 7));
        assert_ne!(init.a, first_values(&config, &target(), 8).a);
        let other = LoraTarget {
            path: "h.4.mlp".into(),
            ..target()
        };
        assert_ne!(init.a, first_values(&config, &other, 7).a);
    }
}
