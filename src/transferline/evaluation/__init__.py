"""Logits to verdicts: metrics, calibration, report, gate. No torch here."""
