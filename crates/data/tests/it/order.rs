//! Row order against `torch.randperm`.

use crate::data::order::epoch_order;

#[test]
fn order_is_torchs_for_every_golden() {
    let path = testkit::repository_root().join("goldens/orders.json");
    let text = std::fs::read(path).expect("a golden is part of the repository");
    let goldens: serde_json::Value = serde_json::from_slice(&text).expect("a golden is valid JSON");
    for golden in goldens.as_array().expect("a list") {
        let number = |key: &str| golden[key].as_u64().expect("a number");
        let want = crate::common::ids(&golden["order"]);
        // Seed and epoch are added, whatever share each has.
        for epoch in [0, number("seed").min(3)] {
            let order = epoch_order(number("count") as usize, number("seed") - epoch, epoch);
            assert_eq!(order, want, "seed {}", number("seed"));
        }
    }
}
