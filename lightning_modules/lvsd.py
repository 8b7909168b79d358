"""Detection of left ventricular systolic dysfunction from the 12-lead ECG (Sawano et al. 2024)."""

from lightning_modules.classifier import Classifier

LVSDClassifier = Classifier
