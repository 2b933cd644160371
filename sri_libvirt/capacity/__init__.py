"""What fits: classes, placement and quantities. Reads no hardware."""
