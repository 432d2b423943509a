"""The settings of a run that is over in a blink, for whatever a test wants to see of a run."""

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
