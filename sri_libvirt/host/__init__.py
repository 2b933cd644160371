"""What the hardware is: one file per subject, a pure parser and a thin reader. No policy."""
