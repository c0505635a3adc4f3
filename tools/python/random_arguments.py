"""The TrainingArguments that `random_cases.py` draws, and the length of the run that they ask for."""

import math


def batches(rows, train):
    size = train["per_device_train_batch_size"]
    return rows // size if train.get("dataloader_drop_last") else -(-rows // size)


def updates_per_epoch(rows, train):
    return -(-batches(rows, train) // train["gradient_accumulation_steps"])


def updates(rows, train):
    """Optimizer updates of a run."""
    return train.get("max_steps") or math.ceil(train["num_train_epochs"] * updates_per_epoch(rows, train))


def draw_train(r, rows, eval_rows):
    train = {"per_device_train_batch_size": r.choice((1, 1, 2, 3, 4)), "gradient_accumulation_steps": r.choice((1, 2, 3, 4)),
             "per_device_eval_batch_size": r.choice((1, 2, 3, 8)), "learning_rate": r.choice((1e-4, 5e-4, 1e-3, 5e-3, 2e-2))}
    if r.random() < 0.4:
        train["max_steps"] = r.choice((1, 3, 5, 8, 12))
    else:
        train["num_train_epochs"] = r.choice((1, 1.0, 2, 3, 0.5, 0.3, 1.5, 2.25, 0.01))
    # where no batch is left, the Trainer refuses epochs but ends max_steps at once, having trained nothing
    if r.random() < 0.2 and rows >= train["per_device_train_batch_size"]:
        train["dataloader_drop_last"] = True
        # an evaluation of no rows has no loss, and is refused here
        train["per_device_eval_batch_size"] = min(train["per_device_eval_batch_size"], max(eval_rows, 1))
    train |= draw_order(r) | draw_schedule(r, updates(rows, train)) | draw_optimizer(r)
    evaluation = draw_evaluation(r) if eval_rows else {"eval_strategy": "no"}
    saving = draw_saving(r, evaluation["eval_strategy"])
    train |= draw_logging(r) | evaluation | saving
    if train["eval_strategy"] != "no" and (train["save_strategy"] == "best" or r.random() < 0.35):
        draw_best(r, train)
    return train


def draw_order(r):
    order = {"train_sampling_strategy": r.choice(("random",) * 5 + ("sequential",))}
    if r.random() < 0.5:
        order["seed"] = r.choice((0, 1, 7, 123456, 2**32 - 1))
    if order["train_sampling_strategy"] == "random" and r.random() < 0.4:
        order["data_seed"] = r.choice((0, 3, 2**31, 42))
    return order


def draw_schedule(r, total):
    options = {"linear": {}, "constant": {}, "constant_with_warmup": {}, "cosine": {"num_cycles": r.choice((0.5, 1, 0.25, 3))},
               "cosine_with_restarts": {"num_cycles": r.choice((1, 2, 3))},
               "polynomial": {"lr_end": r.choice((1e-7, 1e-5, 0.0)), "power": r.choice((1.0, 2.0, 0.5, 3))},
               "inverse_sqrt": {"timescale": r.choice((5, 100))}}
    kind = r.choice(list(options))
    drawn = {"lr_scheduler_type": kind}
    if options[kind] and r.random() < 0.6:
        drawn["lr_scheduler_kwargs"] = options[kind]
    # a warm-up without effect, or longer than the run, is refused here
    if kind != "constant" and r.random() < 0.5:
        warmups = [count for count in (1, 2, 3) if count < total] + [0.1, 0.25, 0.34, 0.5]
        if kind == "polynomial":  # with no step after the warm-up, the Trainer divides by zero
            warmups = [count for count in warmups if math.ceil(count * total if count < 1 else count) < total]
        if warmups:
            drawn["warmup_steps"] = r.choice(warmups)
    return drawn


def draw_optimizer(r):
    drawn = {"adam_epsilon": r.choice((1e-8, 1e-8, 1e-6, 1e-4, 1e-3))}
    if r.random() < 0.4:
        drawn["weight_decay"] = r.choice((0.01, 0.1, 0.5))
    if r.random() < 0.3:
        drawn |= {"adam_beta1": r.choice((0.8, 0.0, 0.95)), "adam_beta2": r.choice((0.95, 0.99, 0.5))}
    if r.random() < 0.5:
        drawn["max_grad_norm"] = r.choice((0.0, 0.05, 0.3, 10.0, 1))
    if r.random() < 0.25:
        drawn["label_smoothing_factor"] = r.choice((0.1, 0.3, 0.05))
    if r.random() < 0.3:
        drawn["optim"] = r.choice(("adamw_torch", "adamw_torch_fused"))
    return drawn


def draw_logging(r):
    drawn = {"logging_strategy": r.choice(("steps",) * 5 + ("epoch", "no"))}
    if drawn["logging_strategy"] == "steps":
        drawn["logging_steps"] = r.choice((1, 1, 1, 2, 3, 0.25, 0.5, 0.1, 500))
    if r.random() < 0.3:
        drawn["logging_first_step"] = True
    return drawn


def draw_evaluation(r):
    drawn = {"eval_strategy": r.choice(("no", "steps", "steps", "epoch"))}
    if drawn["eval_strategy"] == "steps" and r.random() < 0.85:
        drawn["eval_steps"] = r.choice((1, 2, 3, 0.25, 0.5))
    if drawn["eval_strategy"] != "no" and r.random() < 0.2:
        drawn["eval_delay"] = r.choice((1, 2, 0.5))
    if r.random() < 0.2:
        drawn["eval_on_start"] = True
    return drawn


def draw_saving(r, evaluation):
    drawn = {"save_strategy": r.choice(("steps", "steps", "epoch", "no", "best" if evaluation != "no" else "no"))}
    if drawn["save_strategy"] == "steps" and r.random() < 0.8:
        drawn["save_steps"] = r.choice((1, 2, 3, 0.25, 0.5))
    if drawn["save_strategy"] != "no" and r.random() < 0.4:
        drawn["save_total_limit"] = r.choice((1, 2, 3))
    if drawn["save_strategy"] != "no" and r.random() < 0.2:
        drawn["save_only_model"] = True
    return drawn


def draw_best(r, train):
    """The best checkpoint, and stopping early; a best one can be loaded only where each save has an evaluation."""
    train["metric_for_best_model"] = r.choice(("loss", "eval_loss"))
    if r.random() < 0.4:
        train["greater_is_better"] = r.random() < 0.5
    if r.random() < 0.5:
        train["load_best_model_at_end"] = True
        if train["save_strategy"] not in ("best", train["eval_strategy"]):
            train["save_strategy"] = train["eval_strategy"]
            train.pop("save_steps", None)
        if train["save_strategy"] == train["eval_strategy"] == "steps":
            train["eval_steps"] = r.choice((1, 2, 0.25))
            train["save_steps"] = train["eval_steps"] * r.choice((1, 2))
    if r.random() < 0.4:
        train["early_stopping_patience"] = r.choice((1, 2))
        if r.random() < 0.4:
            train["early_stopping_threshold"] = r.choice((0.01, 0.5, 1e-4))
