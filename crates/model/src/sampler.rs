//! From logits to the next token: greedy, or drawn, with transformers' processors in transformers' order
//! (repetition penalty, temperature, top-k, top-p).

use engine::shapes::uniform;

use crate::generation_config::GenerationConfig;

/// The next token after `seen`; `logits` is used up.
pub(crate) fn next_token(config: &GenerationConfig, logits: &mut [f32], seen: &[u32]) -> u32 {
    penalise(logits, seen, config.repetition_penalty);
    if !config.do_sample {
        return argmax(logits);
    }
    let mut candidates: Vec<(u32, f32)> = logits
        .iter()
        .enumerate()
        .map(|(id, logit)| (id as u32, logit / config.temperature))
        .collect();
    // Likeliest first; equal ones by id, so that a draw does not depend on the sort.
    candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if config.top_k > 0 {
        candidates.truncate(config.top_k);
    }
    let probabilities = softmax(&candidates);
    let kept = nucleus(&probabilities, config.top_p);
    draw(
        &candidates[..kept],
        &probabilities[..kept],
        uniform(config.seed, seen.len() as u64),
    )
}

fn penalise(logits: &mut [f32], seen: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut seen: Vec<u32> = seen.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = if *logit < 0.0 {
                *logit * penalty
            } else {
                *logit / penalty
            };
        }
    }
}

/// The first of the largest, as torch's `argmax`.
fn argmax(logits: &[f32]) -> u32 {
    let better = |best: usize, id: usize| if logits[id] > logits[best] { id } else { best };
    (0..logits.len()).fold(0, better) as u32
}

fn softmax(candidates: &[(u32, f32)]) -> Vec<f64> {
    let largest = candidates.first().map_or(0.0, |(_, logit)| *logit);
    let powers: Vec<f64> = candidates
        .iter()
        .map(|(_, logit)| f64::from(logit - largest).exp())
        .collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// How many of the likeliest are kept: those before which less than `top_p` lies.
fn nucleus(probabilities: &[f64], top_p: f32) -> usize {
    let mut before = 0.0;
    for (number, probability) in probabilities.iter().enumerate() {
        if number > 0 && before >= f64::from(top_p) {
            return number;
        }
        before += probability;
    }
    probabilities.len()
}

fn draw(candidates: &[(u32, f32)], probabilities: &[f64], uniform: f32) -> u32 {
    let sum: f64 = probabilities.iter().sum();
    let mut left = f64::from(uniform) * sum;
    for ((id, _), probability) in candidates.iter().zip(probabilities) {
        left -= probability;
        if left < 0.0 {
            return *id;
        }
    }
    candidates.last().map_or(0, |(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(logits: &[f32], config: &GenerationConfig, draws: usize) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        for seed in 0..draws {
            let config = GenerationConfig {
                seed: seed as u64,
                do_sample: true,
                ..config.clone()
            };
            counts[next_token(&config, &mut logits.to_vec(), &[0]) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(
            next_token(
                &GenerationConfig::default(),
                &mut [0.5, 2.0, 2.0, -1.0],
                &[3]
            ),
            1
        );
    }

    #[test]
    fn draws_follow_the_softmax() {
        let counts = sampled(
            &[1.0f32.ln(), 3.0f32.ln(), 6.0f32.ln()],
            &GenerationConfig::default(),
            20_000,
        );
        for (count, want) in counts.iter().zip([0.1, 0.3, 0.6]) {
            assert!(
                (*count as f64 / 20_000.0 - want).abs() < 0.015,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [1.0f32.ln(), 3.0f32.ln(), 6.0f32.ln()];
        let two = GenerationConfig {
            top_k: 2,
            ..GenerationConfig::default()
        };
        assert_eq!(sampled(&logits, &two, 500)[0], 0);
        // 0.6 is less than 0.7, so the second is needed; together they reach it.
        let nucleus = GenerationConfig {
            top_p: 0.7,
            ..GenerationConfig::default()
        };
        let counts = sampled(&logits, &nucleus, 500);
        assert!(
            counts[0] == 0 && counts[1] > 0 && counts[2] > 0,
            "{counts:?}"
        );
    }

    #[test]
    fn repetition_penalty_moves_both_signs_down() {
        let config = GenerationConfig {
            repetition_penalty: 2.0,
            ..GenerationConfig::default()
        };
        assert_eq!(next_token(&config, &mut [3.0, 2.0], &[0, 0]), 1);
        assert_eq!(next_token(&config, &mut [-1.0, -1.5], &[0]), 1);
    }
}
