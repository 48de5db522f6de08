"""Section 4.2: Atari teachers, and students that learn from their policies and gradients."""
