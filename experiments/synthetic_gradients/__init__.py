"""Section 4.3: networks whose parts learn from predicted gradients."""
