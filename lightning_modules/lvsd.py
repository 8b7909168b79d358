"""Detection of left ventricular systolic dysfunction from the 12-lead ECG (Sawano et al. 2024)."""

from lightning_modules.classifier import ECGClassifier


class LVSDClassifier(ECGClassifier):
    """Left ventricular systolic dysfunction: a low ejection fraction, seen in the ECG."""
