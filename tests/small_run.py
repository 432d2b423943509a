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
