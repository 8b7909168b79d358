"""Masked-autoencoder pretraining of Vision Transformers on 12-lead ECGs (Sawano et al. 2024)."""

from lightning_modules.pretraining.masked_autoencoder import MaskedAutoencoder

__all__ = ["MaskedAutoencoder"]
