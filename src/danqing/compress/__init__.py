"""Trained models in other forms: export, its checks, and a runtime without PyTorch."""
