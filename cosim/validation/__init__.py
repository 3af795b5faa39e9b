"""Prediction against measurement: cases, errors, skipped rows with their reasons."""
