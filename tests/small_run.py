"""The settings of a run that is over in a blink, for whatever a test wants to see of a run."""

from typing import Any

SMALL = {
    "net": "mlp",
    "features": "4",
    "latents": "4",
    "prior": "normal",
    "batch_size": "16",
    "measure_seconds": "0.001",
    "sample_images": "4",
    "sample_grids": "2",
    "precision": "float32",
}
SCORED = {**SMALL, "evaluation.samples": "16", "evaluation.features": "pixels"}
TWO_STAGES = {
    **{
        key: SMALL[key]
        for key in ("batch_size", "measure_seconds", "sample_images", "sample_grids", "precision")
    },
    "layers": "1",
    "heads": "2",
    "model.features": "16",
    "model.text.length": "8",
    "model.text.vocabulary": "300",
    "tokenizer.share": "0.35",
    "tokenizer.settings.features": "4",
    "tokenizer.settings.blocks": "0",
    "tokenizer.settings.vocabulary": "16",
    "tokenizer.settings.batch_size": "16",
}
TRIAL: dict[str, Any] = {
    "net": "mlp",
    "evaluation.features": "pixels",
    "evaluation.samples": 20,
    "sample_images": 4,
    "sample_grids": 1,
    "log_every_steps": 5,
    "measure_seconds": 0.01,
    "checkpoint_seconds": 0.1,
    "precision": "float32",
}
"""Of a GAN that is scored often, for searches over its learning rate."""
SPACE = "[optimizer.learning_rate]\nlow = 1e-4\nhigh = 1e-2\nlog = true\n"
CLASSIFIER: dict[str, Any] = {
    "model.features": 16,
    "batch_size": 64,
    "measure_seconds": 0.001,
    "precision": "float32",
    "sample_images": 4,
    "learning_rate": 1e-2,
    "ema_half_life_images": 500,
    "warmup_images": 500,
    "model.shift": 0.0,
    "model.cutout": 0.0,
}
"""A classifier of digits that is right after a few seconds."""
