"""Statistics on predictions alone: no torch, no Lightning, no MLflow."""
